"""For torch.hub (docs/own_program.md).

    net = torch.hub.load("path/to/the/clone", "load", "runs/sysu_cmfn", source="local")
"""

import vireid

dependencies = ["cv2", "numpy", "PIL", "scipy", "torch", "torchvision", "tqdm", "yacs", "yaml"]

load = vireid.load
