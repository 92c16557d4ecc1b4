"""The total of each method, as its paper prints it: one file a method, over losses that have files of their own."""
