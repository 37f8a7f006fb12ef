"""Every tiny model that is made as its makers publish it."""

from typing import Final

from tests.published_decoders import DECODERS
from tests.published_encoders import ENCODERS
from tests.published_few import FEW
from tests.published_latent import LATENT
from tests.published_multimodal import MULTIMODAL
from tests.published_rwkv import RWKV
from tests.published_streams import STREAMS

PUBLISHED: Final = {**ENCODERS, **DECODERS, **FEW, **LATENT, **RWKV, **STREAMS, **MULTIMODAL}
