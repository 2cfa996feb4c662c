"""The reference model: the SDM's text as straight-line Python, one module per SDM heading."""
