"""How steps, pipelines and views are written, read and refused."""

import pytest

from data.transforms import EPOCHS, Views, check_pipeline, read_step, shortest

VIEWS = Views([["flip", "normalise"]], "what is done to an image")


@pytest.mark.parametrize("step, numbers", [
    ("flip", {"p": 0.5}), ({"flip": 0.3}, {"p": 0.3}), ({"flip": {"p": 0.3}}, {"p": 0.3}), ({"flip": 1}, {"p": 1.0}),
    ("jitter", {}), ({"grey": {"p": 1.0, "until": 6}}, {"p": 1.0, "until": 6}),
    ({"erase": {"area": (0.1, 0.2), "from": 3}}, {
        "p": 0.5, "area": [0.1, 0.2], "fill": [0.485, 0.456, 0.406], "aspect": [0.3, 1 / 0.3], "tries": 0, "from": 3,
        "even_log": False, "before_normalise": False,
    }),
    ({"pad": {"fill": 127}}, {"pixels": 10, "fill": 127}),
])
def test_a_step_is_read_with_all_its_numbers(step, numbers):
    usual = {key: number.default for key, number in EPOCHS.items()}
    name = step if isinstance(step, str) else next(iter(step))
    assert read_step(step) == (name, usual | numbers)



@pytest.mark.parametrize("step, complaint", [
    ("blur", "'blur' is no step; steps are jitter, pad, grey,"),
    (3, "3 is no step"), (None, "None is no step"), ({}, "{} is no step"), (["flip"], r"\['flip'\] is no step"),
    ({"flip": 0.3, "grey": 0.3}, "is no step"), ({3: 4}, "is no step"),
    ({"flip": {"q": 0.3}}, "flip has no q; it has p, from, until"),
    ({"jitter": {"p": 0.3}}, "jitter has no p; it has from, until"),
    ({"flip": 1.5}, "flip has p 1.5; it is 0 at least and 1 at most"),
    ({"flip": True}, "flip has p True, bool where float is wanted"),
    ({"flip": None}, "flip has p None, NoneType where float is wanted"),
    ({"flip": float("nan")}, "flip has p nan; it is 0 at least"),
    ({"pad": 2.5}, "pad has pixels 2.5, float where int is wanted"),
    ({"pad": {"fill": 256}}, "pad has fill 256; it is 0 at least and 255 at most"),
    ({"erase": {"area": [0.4, 0.2]}}, r"erase has area \[0.4, 0.2\]; it is 2 numbers, ascending, each above 0 and"),
    ({"erase": {"area": [0.0, 0.2]}}, r"erase has area \[0.0, 0.2\]; it is 2 numbers"),
    ({"erase": {"fill": [1, 1]}}, r"erase has fill \[1, 1\], where \[0.485, 0.456, 0.406\] would do"),
    ({"erase": {"aspect": [0, 1]}}, r"erase has aspect \[0, 1\]; it is"),
    ({"erase": {"tries": -1}}, "erase has tries -1; it is 0 at least and 1000 at most"),
    ({"exchange": 1}, "exchange has grey 1, int where bool is wanted"),
    ({"grey": {"from": -1}}, "grey has from -1; it is 0 at least and 100000 at most"),
    ({"grey": {"until": 2.5}}, "grey has until 2.5, float where int is wanted"),
    ({"grey": {"from": 3, "until": 3}}, "grey acts from epoch 3 until 3, which is never"),
    ({"grey": {"from": 100_000}}, "grey acts from epoch 100000 until 100000, which is never"),
])
def test_what_is_no_step_is_refused(step, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_step(step)



@pytest.mark.parametrize("steps, complaint", [
    ("flip", "'flip' is no list of steps"), ([], "a view needs normalise once"),
    (["flip"], "a view needs normalise once"),
    (["normalise", "normalise"], "a view needs normalise once"),
    (["erase", "normalise"], "erase comes after normalise"),
    (["exchange", "normalise"], "exchange comes after normalise"),
    (["adapt", "normalise"], "adapt comes after normalise"), (["normalise", "flip"], "flip comes before normalise"),
    (["normalise", "jitter"], "jitter comes before normalise"), (["normalise", "crop"], "crop comes before normalise"),
    (["pad", "normalise"], "after pad comes crop"), (["crop", "pad", "normalise"], "after pad comes crop"),
    (["normalise", "blur"], "'blur' is no step"),
    (["pad", "crop", "pad", "normalise"], "after pad comes crop or resize"),
    ([{"resize": {"from": 1}}, "normalise"], "resize acts in every epoch"),
    ([{"normalise": {"from": 3}}], "normalise acts in every epoch: without it there is no image of the network's size"),
    ([{"normalise": 3}], "normalise acts in every epoch"),
    (["pad", {"crop": {"until": 3}}, "normalise"], "crop acts in every epoch"),
])
def test_what_is_no_pipeline_is_refused(steps, complaint):
    with pytest.raises(ValueError, match=complaint):
        check_pipeline(steps)



def test_pipelines_in_any_order_that_makes_sense_are_taken():
    check_pipeline(["normalise"])
    check_pipeline(["pad", "crop", "pad", "crop", "normalise"])
    check_pipeline([{"pad": {"until": 3}}, "crop", "normalise"])
    check_pipeline(["flip", {"pad": {"fill": 127}}, "crop", "normalise", {"erase": {"tries": 10}}])
    check_pipeline(["crop", "jitter", "normalise", "adapt", "erase"])



def test_views_are_written_as_short_as_they_can_be():
    written = [[{"flip": 0.5}, {"grey": 0.3}, ("normalise"), {"erase": {"p": 0.5, "area": (0.2, 0.3)}}], ["normalise"]]
    short = [["flip", {"grey": {"p": 0.3}}, "normalise", {"erase": {"area": [0.2, 0.3]}}], ["normalise"]]
    assert VIEWS.read(written) == short == shortest(short) == VIEWS.read(short)
    assert VIEWS.read(tuple(map(tuple, written))) == short  # as a command line may write them
    assert VIEWS.refusal(short) == "" and VIEWS.kind == "views"



@pytest.mark.parametrize("value, complaint", [
    ([], "; it is a list of views, each a list of the steps jitter, pad, grey,"), ("flip", "; it is a list of views"),
    (3, "; it is a list of views"), (None, "; it is a list of views"), ({"flip": 0.3}, "; it is a list of views"),
    (["flip", "normalise"], ": 'flip' is no list of steps"),
    ([["normalise"], ["flip"]], ": a view needs normalise once"),
    ([["normalise", {"erase": {"p": 2}}]], ": erase has p 2"), ([["blur", "normalise"]], ": 'blur' is no step"),
    ([3], ": 3 is no list of steps"),
    ([{"flip": 0.3, "normalise": {}}], ": {'flip': 0.3, 'normalise': {}} is no list of steps"),
    ([{"normalise": {}}], ": {'normalise': {}} is no list of steps"),
])
def test_what_are_no_views_is_refused(value, complaint):
    assert VIEWS.refusal(VIEWS.read(value)).startswith(complaint)



@pytest.mark.parametrize("steps, message", [
    ([], "has steps \\[\\]; it is a list of steps that come before normalise and leave the size as it is"),
    ("hue", "has steps 'hue'; it is a list"), (["hues"], "'hues' is no step"), (["pad"], "pad is none of those"),
    (["normalise"], "normalise is none of those"), ([{"hue": {"p": 2.0}}], "hue has p 2.0; it is 0 at least and 1"),
    ([{"hue": {"until": 3}}], "hue has epochs of its own; set those of the whole"),
])
def test_what_one_of_cannot_choose_from_is_refused(steps, message):
    with pytest.raises(ValueError, match=message):
        read_step({"one_of": {"steps": steps}})
