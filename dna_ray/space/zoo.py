"""The networks that the paper found (Fig. 13) and EfficientNet-B0, in the text form."""

ZOO = {
    "dna-a": "24:k5e3,k3e3,k3e6/40:k3e3,k3e3,k5e3,k3e6/80:k7e6,k3e3,k5e3,k3e6"
    "/96:k5e6,k5e3,k5e3,k5e6/160:k5e6,k5e3,k5e3,k5e3,k5e6/320:k3e6",
    "dna-b": "24:k3e3,k5e3,k7e6/40:k7e6,k5e3,k7e6/80:k5e6,k5e3,k5e3,k3e6"
    "/96:k5e6,k5e3,k5e3,k5e6/192:k7e6,k5e3,k5e3,k5e3,k7e6/320:k3e6",
    "dna-c": "24:k5e6,k3e6/40:k5e6,k5e6,k3e6,k5e6/80:k5e6,k3e6,k5e6,k5e6"
    "/112:k3e6,k5e6,k5e6,k5e3/192:k5e6,k5e3,k5e6,k5e6/320:k3e6",
    "dna-d": "24:k7e6,k5e6,k7e6/40:k7e6,k7e6,k7e6,k7e6/80:k7e6,k5e6,k5e6,k7e6"
    "/112:k7e6,k5e6,k7e6,k5e6/192:k7e6,k5e6,k5e6,k5e6,k7e6/320:k3e6",
    "efficientnet-b0": "24:k3e6,k3e6/40:k5e6,k5e6/80:k3e6,k3e6,k3e6"
    "/112:k5e6,k5e6,k5e6/192:k5e6,k5e6,k5e6,k5e6/320:k3e6",
}
