"""Words of what programs say."""


def how_many(number: int, one: str, more: str = "", form: str = "") -> str:
    """"1 image", "2 images".

    more   of any other number than one, where it isn't `one` and an s
    form   of the number, such as "," between thousands
    """
    return f"{number:{form}} {one if number == 1 else more or f'{one}s'}"
