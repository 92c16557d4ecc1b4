"""From the configuration to a network: a new method is one file in this folder and one line here."""

from yacs.config import CfgNode

from common.registry import classes_of
from models.network import MethodError, Network

MODELS: dict[str, type[Network]] = classes_of("models", {
    "cmfn": "cmfn.CMFN",
    "agw": "agw.AGW",
    "caj": "agw.CAJ",
    "deen": "deen.DEEN",
    "mpanet": "mpanet.MPANet",
    "pmt": "pmt.PMT",
    "mscmnet": "mscmnet.MSCMNet",
    "mcja": "mcja.MCJA",
    "dns": "dns.DNS",
    "sefel": "sefel.SEFEL",
    "mclnet": "mclnet.MCLNet",
})


def build_model(options: CfgNode, classes: int, size: tuple[int, int] | None = None) -> Network:
    """The network that MODEL.NAME asks for.

    options   the MODEL section of the configuration
    classes   number of training identities
    size      height and width of images, for a network that `reads_size`
    raises    MethodError, ImageSizeError
    """
    network = class_of(options)
    network.check_installed()
    if network.reads_size:
        return network(options, classes, size)  # type: ignore[call-arg]  # it has an argument more than others
    return network(options, classes)


def class_of(options: CfgNode) -> type[Network]:
    """The class of the network that MODEL.NAME asks for.

    options   the MODEL section of the configuration
    raises    MethodError
    """
    if options.NAME not in MODELS:
        raise MethodError(f"MODEL.NAME is {options.NAME!r}; known are {', '.join(MODELS)}")
    return MODELS[options.NAME]
