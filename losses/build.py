"""From the configuration to a total loss: a new method is one file in totals/ and one line here."""

from torch import nn
from yacs.config import CfgNode

from common.registry import classes_of

TOTALS = classes_of("losses.totals", {
    "cmfn": "cmfn.CMFNTotal",
    "agw": "agw.AGWTotal",
    "caj": "agw.CAJTotal",
    "deen": "deen.DEENTotal",
    "mpanet": "mpanet.MPANetTotal",
    "pmt": "pmt.PMTTotal",
    "mscmnet": "mscmnet.MSCMNetTotal",
    "mcja": "mcja.MCJATotal",
    "dns": "dns.DNSTotal",
    "sefel": "sefel.SEFELTotal",
    "mclnet": "mclnet.MCLNetTotal",
})


def build_total(method: str, options: CfgNode) -> nn.Module:
    """The total of a method: (output, epoch) -> {name: weighted scalar}, whose sum is the loss.

    method    MODEL.NAME
    options   the LOSS section of the configuration
    """
    return TOTALS[method](options)
