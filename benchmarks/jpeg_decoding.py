"""Compare ways to turn a JPEG file into a 224x224 training crop, on one core.

Every method does the work of one training sample: decode, random resized crop, antialiased
bicubic resize and horizontal flip. The crops are drawn once from a seed, so all the methods see
the same ones. The time is process CPU time, so neither a busy machine nor a library that starts
threads distorts the rate per core. Mean error and PSNR are those of the crops that changed, in
any pixel, from the usual pipeline. Methods whose package is missing are skipped with a note.

    python -m benchmarks.jpeg_decoding --images FOLDER_OR_TAR
"""

import argparse
import importlib
import io
import math
import random
import statistics
import tarfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

SIZE = 224
modules = {}  # the optional packages, by name


class Crop(NamedTuple):
    """A crop box in pixels of the full-size image, and whether the result is flipped."""

    left: int
    top: int
    width: int
    height: int
    flip: bool

    def box(self, n):
        """Exact (left, top, right, bottom) at n/8 of full size."""
        left, top, width, height, _ = self
        return left * n / 8, top * n / 8, (left + width) * n / 8, (top + height) * n / 8

    def bounds(self, n):
        """Whole pixels (left, top, right, bottom) that hold the crop at n/8 of full size."""
        box = self.box(n)
        return *map(math.floor, box[:2]), *map(math.ceil, box[2:])


def load_images(path):
    """Read the JPEG files of a folder or a tar archive into memory, in order of their names."""
    if path.is_dir():
        files = {str(file): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    else:
        with tarfile.open(path) as tar:
            files = {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}
    return [data for _, data in sorted(files.items()) if data.startswith(b"\xff\xd8")]


def random_resized_crop(data, rng, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3)):
    """Draw a crop: ten tries at a random area and aspect ratio, then a central crop."""
    width, height = Image.open(io.BytesIO(data)).size
    flip = rng.random() < 0.5
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(*map(math.log, ratio)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Crop(rng.randint(0, width - w), rng.randint(0, height - h), w, h, flip)
    w, h = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))
    return Crop((width - w) // 2, (height - h) // 2, w, h, flip)


def decode_pillow(data, crop, n):
    """Pillow, in full or scaled by `draft`, which takes a least width and height."""
    image = Image.open(io.BytesIO(data))
    if n < 8:
        image.draft(None, (image.width * n // 8, image.height * n // 8))
    return image.convert("RGB").crop(crop.bounds(n))


def decode_opencv(data, crop, n):
    """OpenCV, in full or by the reduced modes; only the crop is put in RGB order."""
    cv2 = modules["cv2"]
    flag = cv2.IMREAD_COLOR if n == 8 else getattr(cv2, f"IMREAD_REDUCED_COLOR_{8 // n}")
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
    left, top, right, bottom = crop.bounds(n)
    return cv2.cvtColor(pixels[top:bottom, left:right], cv2.COLOR_BGR2RGB)


def decode_simplejpeg(data, crop, n, **options):
    """libjpeg-turbo by simplejpeg, in full or scaled by a least width and height."""
    simplejpeg = modules["simplejpeg"]
    if n < 8:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        options |= {"min_height": math.ceil(height * n / 8), "min_width": math.ceil(width * n / 8)}
    left, top, right, bottom = crop.bounds(n)
    return simplejpeg.decode_jpeg(data, "RGB", **options)[top:bottom, left:right]


def decode_tensorflow(data, crop, n):
    """TensorFlow, which leaves out rows and columns outside the crop inside libjpeg-turbo."""
    left, top, right, bottom = crop.bounds(8)
    decode = partial(modules["tensorflow"].io.decode_and_crop_jpeg, dct_method="INTEGER_ACCURATE")
    return decode(data, [top, left, bottom - top, right - left], channels=3).numpy()


def resize_pillow(image, box, **options):
    """Resize a box, which may hold fractions of a pixel, with Pillow."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box, **options))


def resize_kornia(image, box):
    """Resize with kornia-rs, which knows no box: fractions of a pixel are lost."""
    pixels = np.ascontiguousarray(image)
    return modules["kornia_rs"].imgproc.resize(pixels, (SIZE, SIZE), "bicubic", antialias=True)


def resize_cykooz(image, box):
    """Resize with cykooz_resizer, which knows boxes; its Catmull-Rom is Pillow's bicubic."""
    cykooz, (left, top, right, bottom) = modules["cykooz_resizer"], box
    options = cykooz.ResizeOptions(
        resize_alg=cykooz.ResizeAlg.convolution(cykooz.FilterType.catmull_rom),
        crop_box=cykooz.CropBox(left, top, right - left, bottom - top),
    )
    height, width, _ = image.shape
    source = cykooz.ImageData(width, height, cykooz.PixelType.U8x3, image.tobytes())
    target = cykooz.ImageData(SIZE, SIZE, cykooz.PixelType.U8x3)
    cykooz.Resizer().resize(source, target, options)
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(SIZE, SIZE, 3)


def sample(data, crop, decode, margin=math.inf, scales=(1, 2, 4), resize=resize_pillow):
    """Make a crop, decoded at the least scale that leaves its sides `margin` targets or more."""
    side = min(crop.width, crop.height)
    n = next((n for n in scales if side * n >= 8 * margin * SIZE), 8)
    (x, y, right, bottom), (left, top, _, _) = crop.box(n), crop.bounds(n)
    pixels = resize(decode(data, crop, n), (x - left, y - top, right - left, bottom - top))
    return pixels[:, ::-1] if crop.flip else pixels


def sample_box(data, crop):
    """No crop: the resize reads a box of the full image, and a little beyond its edges."""
    pixels = resize_pillow(Image.open(io.BytesIO(data)).convert("RGB"), crop.bounds(8))
    return pixels[:, ::-1] if crop.flip else pixels


pil, cv = partial(sample, decode=decode_pillow), partial(sample, decode=decode_opencv)
jpeg, fast = partial(sample, decode=decode_simplejpeg), partial(decode_simplejpeg, fastdct=True)
METHODS = {  # by name, which starts with the packages that the method needs
    "PIL": pil,
    "PIL, resize(box=)": sample_box,
    "PIL, reducing_gap=2": partial(pil, resize=partial(resize_pillow, reducing_gap=2.0)),
    "PIL, draft >= 1x": partial(pil, margin=1),
    "PIL, draft >= 2x": partial(pil, margin=2),
    "cv2": cv,
    "cv2, reduced >= 1x": partial(cv, margin=1),
    "simplejpeg": jpeg,
    "simplejpeg, fastdct": partial(sample, decode=fast),
    "simplejpeg, fastdct, fastupsample": partial(sample, decode=partial(fast, fastupsample=True)),
    "simplejpeg, 1/2 1/4 1/8 >= 1x": partial(jpeg, margin=1),
    "simplejpeg, 1/2 1/4 1/8 >= 2x": partial(jpeg, margin=2),
    "simplejpeg, any n/8 >= 1x": partial(jpeg, margin=1, scales=range(1, 8)),
    "simplejpeg+kornia_rs": partial(jpeg, resize=resize_kornia),
    "simplejpeg+kornia_rs, >= 1x": partial(jpeg, resize=resize_kornia, margin=1),
    "simplejpeg+cykooz_resizer": partial(jpeg, resize=resize_cykooz),
    "simplejpeg+cykooz_resizer, >= 2x": partial(jpeg, resize=resize_cykooz, margin=2),
    "tensorflow, decode_and_crop": partial(sample, decode=decode_tensorflow),
}


def available(name):
    """Import the packages that a method needs, or say which one is missing."""
    try:
        modules.update({p: importlib.import_module(p) for p in name.split(",")[0].split("+")})
    except (ImportError, OSError) as error:
        print(f"skipped {name!r}: {error}")
        return False
    return True


def main():
    """Time passes over all the images, one method after the other, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="folder or tar of JPEG files")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    work = [(data, random_resized_crop(data, rng)) for data in load_images(args.images)]
    methods = {name: f for name, f in METHODS.items() if available(name)}
    crops = {name: np.stack([f(*item) for item in work]) for name, f in methods.items()}
    seconds = {name: [] for name in methods}
    for _ in range(args.repeats):
        for name, function in methods.items():
            start = time.process_time()
            for item in work:
                function(*item)
            seconds[name].append(time.process_time() - start)
    print(f"{'method':<35}{'images/s':>9}{'ratio':>7}{'changed':>9}{'mean abs':>10}{'PSNR':>7}")
    for name, times in seconds.items():
        error = crops[name].astype(np.float64) - crops["PIL"]
        changed = error.any(axis=(1, 2, 3)).mean()
        mean_abs, mse = (np.mean(e) / (changed or 1) for e in (np.abs(error), error**2))
        psnr = 10 * math.log10(255**2 / mse) if mse else math.inf
        rate = len(work) / statistics.median(times)
        ratio = statistics.median(a / b for a, b in zip(seconds["PIL"], times, strict=True))
        print(f"{name:<35}{rate:9.0f}{ratio:6.2f}x{changed:9.0%}{mean_abs:10.2f}{psnr:7.1f}")


if __name__ == "__main__":
    main()
