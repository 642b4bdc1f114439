"""dualprune: prunes large networks in stages, each solved by ADMM, on Ray, DeepSpeed and WebDataset.

The packages: `pipeline`, what runs and what came of it; `stages`, what one stage does on its ranks; `cluster`, how a
function gets onto machines. Importing this one loads nothing heavy.
"""

__version__ = "0.1.0"
