"""What surrounds a training: its folder, log and checkpoints, processes, loaders."""
