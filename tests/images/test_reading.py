import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, TiffImagePlugin

from objectness.errors import ImageError
from objectness.images import reading
from objectness.images.reading import measure_image, read_image, read_reduced, to_rgb

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def make_photo(width: int = 48, height: int = 32) -> Image.Image:
    """Smooth colours with a black corner at the top left, so that every turn of it looks different."""
    x, y = np.meshgrid(np.linspace(0, 200, width), np.linspace(0, 200, height))
    pixels = np.stack([x, y, 200 - x], axis=-1).astype(np.uint8)
    pixels[: height // 4, : width // 4] = 0
    return Image.fromarray(pixels)


def png_with_header(width: int, height: int) -> bytes:
    """A PNG that says it is `width` x `height`, and ends where the pixels should begin."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checked = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + checked + struct.pack(">I", 1000) + b"IDAT"


@pytest.mark.parametrize("ending", ["png", "bmp", "tiff", "webp", "gif", "jpg", "ppm"])
def test_formats_give_contiguous_rgb(tmp_path: Path, ending: str) -> None:
    photo = make_photo()
    photo.save(tmp_path / f"a.{ending}", **({"lossless": True} if ending == "webp" else {}))
    pixels = read_image(tmp_path / f"a.{ending}")
    assert (pixels.shape, pixels.dtype) == ((32, 48, 3), np.uint8)
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    tolerance = {"jpg": 60, "gif": 40}.get(ending, 0)  # these two lose something
    assert np.abs(pixels.astype(int) - np.asarray(photo)).max() <= tolerance


def test_path_may_be_a_string_and_the_ending_says_nothing(tmp_path: Path) -> None:
    make_photo().save(tmp_path / "a.jpg", "PNG")
    assert np.array_equal(read_image(str(tmp_path / "a.jpg")), np.asarray(make_photo()))


@pytest.mark.parametrize("ending", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_stand_upright(tmp_path: Path, orientation: int, ending: str) -> None:
    # EXIF 2.32, tag 274: where row 0 and column 0 of the stored pixels are when the photo is seen upright.
    store = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a[:, ::-1].swapaxes(0, 1),  # row 0 is the right side, column 0 the top
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: a[::-1].swapaxes(0, 1),  # row 0 is the left side, column 0 the bottom
    }
    upright = np.asarray(make_photo())
    exif = Image.Exif()
    exif[274] = orientation
    stored = Image.fromarray(np.ascontiguousarray(store[orientation](upright)))
    stored.save(tmp_path / f"a.{ending}", exif=exif, **({"lossless": True} if ending == "webp" else {}))
    assert np.array_equal(read_image(tmp_path / f"a.{ending}"), upright)


def test_pillow_images_keep_their_own_frame(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    make_photo().save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (48, 32, 3)
    with Image.open(tmp_path / "a.jpg") as image:
        assert to_rgb(image).shape == (32, 48, 3)


def pixel_row(*values: object, mode: str) -> Image.Image:
    row = Image.new(mode, (len(values), 1))
    for x, value in enumerate(values):
        row.putpixel((x, 0), value)
    return row


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (pixel_row(0, 1, mode="1"), [BLACK, WHITE]),
        (pixel_row(0, 7, 255, mode="L"), [BLACK, (7, 7, 7), WHITE]),
        (pixel_row((9, 255), (9, 0), mode="LA"), [(9, 9, 9), WHITE]),
        # half transparent red on white: 255 * 128/255 + 255 * 127/255 = 255 and 0 * 128/255 + 255 * 127/255 = 127
        (pixel_row((255, 0, 0, 255), (0, 0, 0, 0), (255, 0, 0, 128), mode="RGBA"), [RED, WHITE, (255, 127, 127)]),
        (pixel_row((0, 255, 255, 0), (0, 0, 0, 255), mode="CMYK"), [RED, BLACK]),
        # 65535 / 257 = 255; 128 / 257 = 0.498 and 129 / 257 = 0.502
        (pixel_row(0, 128, 129, 65535, mode="I;16"), [BLACK, BLACK, (1, 1, 1), WHITE]),
        (pixel_row(-50, 0, 50, mode="I"), [BLACK, (128, 128, 128), WHITE]),
        (pixel_row(0.0, 0.25, 1.0, mode="F"), [BLACK, (64, 64, 64), WHITE]),
        (pixel_row(3.5, 3.5, mode="F"), [BLACK, BLACK]),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_modes(row: Image.Image, expected: list[tuple[int, int, int]]) -> None:
    before = row.tobytes()
    pixels = to_rgb(row)
    assert [tuple(pixel) for pixel in pixels[0].tolist()] == expected
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert row.tobytes() == before


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 128])])
def test_palettes_may_be_transparent(tmp_path: Path, transparency: int | bytes) -> None:
    row = pixel_row(0, 1, 2, mode="P")
    row.putpalette([*RED, *GREEN, *BLUE])
    row.save(tmp_path / "a.png", transparency=transparency)
    blue = BLUE if transparency == 1 else (127, 127, 255)
    assert read_image(tmp_path / "a.png")[0].tolist() == [list(RED), list(WHITE), list(blue)]


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_16_bit_grey_files_use_their_full_range(tmp_path: Path, ending: str) -> None:
    Image.fromarray(np.array([[0, 257, 65535]], dtype=np.uint16)).save(tmp_path / f"a.{ending}")
    assert read_image(tmp_path / f"a.{ending}")[0, :, 0].tolist() == [0, 1, 255]


def test_the_first_frame_is_read(tmp_path: Path) -> None:
    red, blue = Image.new("RGB", (4, 3), RED), Image.new("RGB", (4, 3), BLUE)
    for name in ("a.gif", "a.tiff"):
        red.save(tmp_path / name, save_all=True, append_images=[blue])
        assert read_image(tmp_path / name)[0, 0].tolist() == list(RED)


def test_colours_that_pillow_cannot_convert_are_refused() -> None:
    with pytest.raises(ImageError, match=r"its colours \(La\) cannot be converted to RGB; save it as RGB"):
        to_rgb(Image.new("La", (2, 2)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_floats_must_be_finite(tmp_path: Path, value: float) -> None:
    pixel_row(0.0, value, mode="F").save(tmp_path / "a.tiff")
    with pytest.raises(ImageError, match=r"a\.tiff: has pixels that are not finite"):
        read_image(tmp_path / "a.tiff")


def fails(path: Path, sentence: str) -> None:
    with pytest.raises(ImageError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert sentence in message
    assert "\n" not in message


def test_what_cannot_be_read_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails(tmp_path / "none.jpg", "cannot be opened (No such file or directory)")
    fails(tmp_path, "is a folder, not an image")
    (tmp_path / "empty.jpg").touch()
    fails(tmp_path / "empty.jpg", "the file is empty (0 bytes)")
    (tmp_path / "text.jpg").write_text("this is no photo")
    fails(tmp_path / "text.jpg", "is no image, or only the start of one")
    (tmp_path / "plot.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    fails(tmp_path / "plot.eps", "is a EPS file, which is not read; save it as PNG or JPEG")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root, who may read everything
    fails(tmp_path / "secret.jpg", "cannot be opened (Permission denied)")


def test_large_images_are_refused_by_their_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    (tmp_path / "huge.png").write_bytes(png_with_header(40_000, 40_000))
    fails(tmp_path / "huge.png", "has 1,600,000,000 pixels, and at most 178,956,970 are read; resize it")
    monkeypatch.setattr(reading, "MAX_PIXELS", 100)
    make_photo(11, 10).save(tmp_path / "over.png")
    fails(tmp_path / "over.png", "has 110 pixels, and at most 100 are read")
    make_photo(10, 10).save(tmp_path / "at.png")
    assert read_image(tmp_path / "at.png").shape == (10, 10, 3)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_pillow_does_not_warn_of_many_pixels(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(png_with_header(10_000, 10_000))  # Pillow warns from 89 million on
    fails(tmp_path / "large.png", "ends early")


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tiff", "gif", "bmp"])
def test_files_cut_off_anywhere_fail_in_a_sentence(tmp_path: Path, ending: str) -> None:
    whole = io.BytesIO()
    make_photo(24, 12).save(whole, {"jpg": "JPEG"}.get(ending, ending.upper()))
    path, cut = tmp_path / f"a.{ending}", whole.getvalue()
    failures = []
    for length in range(0, len(cut), 3):
        path.write_bytes(cut[:length])
        try:
            read_image(path)
        except ImageError as error:
            failures.append(str(error))
    assert len(failures) > 0.8 * len(cut) / 3  # the last bytes may say nothing about the pixels
    assert any("ends early" in failure or "is no image, or only the start of one" in failure for failure in failures)


def test_truncated_jpeg_ends_early(tmp_path: Path) -> None:
    make_photo(300, 200).save(tmp_path / "a.jpg", quality=95)
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    fails(tmp_path / "a.jpg", "ends early; copy or download it again")
    with Image.open(tmp_path / "a.jpg") as image, pytest.raises(ImageError, match="ends early"):
        to_rgb(image)


def tiff_with_odd_metadata() -> bytes:
    """A TIFF one of whose tags says it is longer than the file."""
    file, tags = io.BytesIO(), TiffImagePlugin.ImageFileDirectory_v2()
    tags[270] = "a description that does not fit into four bytes"
    make_photo().save(file, "TIFF", tiffinfo=tags)
    whole = file.getvalue()
    entry = whole.index(struct.pack("<HH", 270, 2))
    return whole[: entry + 4] + struct.pack("<I", len(whole) + 1000) + whole[entry + 8 :]


def test_odd_metadata_is_no_error_and_no_warning(tmp_path: Path) -> None:
    (tmp_path / "a.tiff").write_bytes(tiff_with_odd_metadata())
    with pytest.warns(UserWarning, match="larger than file"), Image.open(tmp_path / "a.tiff"):
        pass  # Pillow would warn, and warnings are errors here
    assert np.array_equal(read_image(tmp_path / "a.tiff"), np.asarray(make_photo()))


def test_damaged_exif_is_passed_over(tmp_path: Path) -> None:
    make_photo().save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03")
    assert np.array_equal(read_image(tmp_path / "a.png"), np.asarray(make_photo()))


def test_threads_read_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "odd.tiff").write_bytes(tiff_with_odd_metadata())
    make_photo().save(tmp_path / "a.png")
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(read_image, [tmp_path / "odd.tiff", tmp_path / "a.png"] * 50))
    assert all(np.array_equal(pixels, np.asarray(make_photo())) for pixels in results)


def save_jpeg(path: Path, size: tuple[int, int], orientation: int = 1) -> np.ndarray:
    """A smooth picture with a few edges; (width, height) as stored. Gives the pixels as stored."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 / width, y * 255 / height, 255 * ((x // 97 + y // 61) % 2)], axis=2).astype(np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(pixels).save(path, quality=95, exif=exif)
    return pixels


@pytest.mark.parametrize(
    ("wanted", "decoded"),
    [
        ((100, 150), (200, 300)),  # 800 x 1200 to a quarter: twice what is wanted
        ((101, 150), (400, 600)),  # a quarter would be less than twice
        ((300, 450), (800, 1200)),  # a half would be less than twice
        ((10, 15), (100, 150)),  # an eighth is the least that the format can
    ],
)
def test_a_jpeg_is_decoded_to_a_part_of_its_size(
    tmp_path: Path, wanted: tuple[int, int], decoded: tuple[int, int]
) -> None:
    save_jpeg(tmp_path / "a.jpg", (1200, 800))
    pixels, size = read_reduced(tmp_path / "a.jpg", lambda whole: wanted)
    assert pixels.shape == (*decoded, 3)
    assert size == (800, 1200)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_jpeg_is_upright(tmp_path: Path, orientation: int) -> None:
    save_jpeg(tmp_path / "a.jpg", (1200, 800), orientation)
    seen: list[tuple[int, int]] = []
    pixels, size = read_reduced(tmp_path / "a.jpg", lambda whole: (seen.append(whole), (100, 100))[1])
    whole = read_image(tmp_path / "a.jpg")
    assert size == whole.shape[:2]
    assert pixels.shape[0] / pixels.shape[1] == pytest.approx(size[0] / size[1])
    small = Image.fromarray(whole).resize(pixels.shape[1::-1], Image.Resampling.BOX)
    assert abs(np.asarray(small).astype(int) - pixels).mean() < 2


def test_reduced_decoding_hardly_changes_what_the_network_sees(photos: list[Path], tmp_path: Path) -> None:
    """A photo of 5 MP, seen at 384 x 512: less than half a grey level on average."""
    with Image.open(next(each for each in photos if each.stem == "coffee")) as photo:
        photo.resize((2400, 1600), Image.Resampling.LANCZOS).save(tmp_path / "a.jpg", quality=92)
    pixels, _ = read_reduced(tmp_path / "a.jpg", lambda whole: (384, 576))
    assert pixels.shape[:2] == (800, 1200)
    seen, expected = (
        np.asarray(Image.fromarray(each).resize((576, 384), Image.Resampling.BILINEAR)).astype(int)
        for each in (pixels, read_image(tmp_path / "a.jpg"))
    )
    assert abs(seen - expected).mean() < 0.5


def test_other_files_are_read_whole(tmp_path: Path) -> None:
    Image.new("RGB", (1200, 800)).save(tmp_path / "a.png")
    pixels, size = read_reduced(tmp_path / "a.png", lambda whole: (10, 15))
    assert pixels.shape == (800, 1200, 3)
    assert size == (800, 1200)
    (tmp_path / "b.jpg").write_bytes(b"no")
    with pytest.raises(ImageError, match=r"b\.jpg: is no image"):
        read_reduced(tmp_path / "b.jpg", lambda whole: whole)


def save_oriented(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (30, 20)).save(path, exif=exif)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_is_that_of_the_upright_image(tmp_path, suffix, orientation):
    path = tmp_path / f"a.{suffix}"
    save_oriented(path, orientation)
    assert measure_image(path) == ((20, 30) if orientation < 5 else (30, 20)) == read_image(path).shape[:2]


def test_size_needs_no_more_than_the_header(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:200])
    assert measure_image(path) == (50, 70)


def test_damaged_exif_leaves_the_size(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (30, 20)).save(path, exif=b"Exif\0\0nonsense")
    assert measure_image(path) == (20, 30)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"II*\0\xff\xff\xff\xff"])
def test_what_is_no_image_raises(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.png: cannot be read as an image"):
        measure_image(path)
