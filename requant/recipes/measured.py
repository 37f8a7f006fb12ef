"""What each recipe loses, as measured: `benchmarks/recipes.py` prints the table.

The model is SmolLM2-135M, widened to 768 columns and moved off the grid that it is published on, so that all rows hold
whole blocks and no recipe finds its own grid (`benchmarks/standin.py`). So small a model loses several times what a
large one does; the order of the recipes is much the same. 1,020 tokens of `requant check`'s own text, 4 windows of 512.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: Recipes of a GGUF that are made with an importance matrix: those that need one, and those that lose much less.
WITH_IMPORTANCE: Final = frozenset(
    ("gguf", name)
    for name in (
        *("Q4_0", "Q4_1", "Q4_K_M", "Q4_K_S", "IQ4_NL", "IQ4_XS", "Q3_K_L", "Q3_K_M", "Q3_K_S", "IQ3_M", "IQ3_S"),
        *("IQ3_XS", "IQ3_XXS", "Q2_K", "Q2_K_S", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"),
    )
)

#: On what, in words.
MEASURED_ON: Final = "mean KL divergence from F32 in llama.cpp, of SmolLM2-135M widened to 768 columns"

#: (format, recipe) -> KL divergence in nats for each token, with its standard error beside it.
MEASURED: Final[Mapping[tuple[str, str], float]] = {
    ("gguf", "F16"): 0.00001,  # ± 0.00000
    ("gguf", "Q4_0"): 0.20640,  # ± 0.00670
    ("gguf", "Q4_1"): 0.09295,  # ± 0.00472
    ("gguf", "Q8_0"): 0.00465,  # ± 0.00016
    ("gguf", "Q5_0"): 0.09064,  # ± 0.00298
    ("gguf", "Q5_1"): 0.06802,  # ± 0.00238
    ("gguf", "Q2_K"): 1.18661,  # ± 0.03127
    ("gguf", "Q3_K_S"): 0.78916,  # ± 0.02682
    ("gguf", "Q3_K_M"): 0.35659,  # ± 0.01424
    ("gguf", "Q3_K_L"): 0.32504,  # ± 0.01341
    ("gguf", "Q4_K_S"): 0.11059,  # ± 0.00553
    ("gguf", "Q4_K_M"): 0.09433,  # ± 0.00466
    ("gguf", "Q5_K_S"): 0.07405,  # ± 0.00346
    ("gguf", "Q5_K_M"): 0.06291,  # ± 0.00324
    ("gguf", "Q6_K"): 0.03531,  # ± 0.00138
    ("gguf", "IQ2_XXS"): 2.37895,  # ± 0.04753
    ("gguf", "IQ2_XS"): 1.84527,  # ± 0.04428
    ("gguf", "Q2_K_S"): 1.50248,  # ± 0.03715
    ("gguf", "IQ3_XS"): 0.42639,  # ± 0.01575
    ("gguf", "IQ3_XXS"): 0.64536,  # ± 0.01972
    ("gguf", "IQ1_S"): 5.90503,  # ± 0.08342
    ("gguf", "IQ4_NL"): 0.13806,  # ± 0.00941
    ("gguf", "IQ3_S"): 0.36145,  # ± 0.01426
    ("gguf", "IQ3_M"): 0.31089,  # ± 0.01166
    ("gguf", "IQ2_S"): 1.27121,  # ± 0.03420
    ("gguf", "IQ2_M"): 0.93410,  # ± 0.02570
    ("gguf", "IQ4_XS"): 0.15379,  # ± 0.00844
    ("gguf", "IQ1_M"): 3.85597,  # ± 0.06478
    ("gguf", "BF16"): 0.00023,  # ± 0.00001
    ("gguf", "TQ1_0"): 11.10631,  # ± 0.13636
    ("gguf", "TQ2_0"): 11.10631,  # ± 0.13636
    ("gguf", "MXFP4_MOE"): 0.00465,  # ± 0.00016
    ("gguf", "NVFP4"): 0.29735,  # ± 0.01243
    ("gguf", "Q1_0"): 10.40606,  # ± 0.14992
    ("gguf", "Q2_0"): 15.53745,  # ± 0.14531
    ("safetensors", "BF16"): 0.00030,  # ± 0.00001
    ("safetensors", "FP8"): 0.02007,  # ± 0.00100
    ("safetensors", "FP8-BLOCK"): 0.01753,  # ± 0.00071
    ("safetensors", "W8A8"): 0.00408,  # ± 0.00021
    ("safetensors", "W8A16"): 0.00408,  # ± 0.00021
    ("safetensors", "GPTQ-8-128"): 0.00212,  # ± 0.00008
    ("safetensors", "W4A16"): 0.61761,  # ± 0.01931
    ("safetensors", "W4A16-ASYM"): 0.47042,  # ± 0.01534
    ("safetensors", "W4A16-32"): 0.38814,  # ± 0.01282
    ("safetensors", "GPTQ-4-128"): 0.62759,  # ± 0.01952
    ("safetensors", "AWQ-4-128"): 0.47349,  # ± 0.01559
    ("safetensors", "NVFP4"): 0.23081,  # ± 0.00873
    ("safetensors", "MXFP4"): 0.59145,  # ± 0.02003
    ("safetensors", "NF4"): 0.35934,  # ± 0.01272
    ("safetensors", "MLX-8"): 0.00169,  # ± 0.00007
    ("safetensors", "MLX-6"): 0.02448,  # ± 0.00077
    # the stand-in made anew on another processor, where MLX-6 has 0.02476 and GPTQ-4-128 has 0.72689
    ("safetensors", "MLX-5"): 0.11331,  # ± 0.00408
    ("safetensors", "MLX-4"): 0.54422,  # ± 0.01627
    ("safetensors", "MLX-4-32"): 0.34278,  # ± 0.01103
    ("safetensors", "MLX-3"): 2.48603,  # ± 0.05185
    ("safetensors", "MLX-2"): 10.34225,  # ± 0.09997
    ("safetensors", "MLX-MIXED_4_6"): 0.32945,  # ± 0.01293
}
