"""Makes `four.heic` and `four_turned.heic`: four colours in 48 x 64 pixels, upright and turned by a quarter.

``pip install pillow-heif && python testing/hostile/make_heic.py``. pillow-heif can write HEIC since it brings x265,
which this project does not install.
"""

from pathlib import Path

import numpy as np
import pillow_heif  # pyright: ignore[reportMissingImports]
from PIL import Image

pillow_heif.register_heif_opener()
pixels = np.zeros((48, 64, 3), np.uint8)
pixels[:24, :32], pixels[:24, 32:] = (220, 30, 30), (30, 200, 30)
pixels[24:, :32], pixels[24:, 32:] = (30, 30, 220), (240, 240, 60)
folder = Path(__file__).parent
Image.fromarray(pixels).save(folder / "four.heic", quality=-1, chroma=444)
turned = Image.Exif()
turned[0x0112] = 6  # to be turned clockwise by a quarter
Image.fromarray(np.rot90(pixels)).save(folder / "four_turned.heic", quality=-1, chroma=444, exif=turned.tobytes())
