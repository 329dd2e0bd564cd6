"""Latents and embeddings are computed once, named by content, and survive a kill and a rival."""

import io
import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from training import TrainingError, encoding, store, views
from training.encoding import Source
from training.families import StableDiffusion
from training.processes import Processes
from training.views import Picture, View

CPU = torch.device("cpu")
ALONE = Processes(0, 1, CPU)
FIRST = View()


def a_source(family, images, root, say=lambda text: None, dtype=torch.float32, **texts):
    return Source(family, images, root, ALONE, say, latent_dtype=dtype, **texts)


def encode(family, images, source, root, resolution=32, view=FIRST, shape=None, **changes):
    """Return the latents of `images`, stacked, and their digests."""
    place = a_source(family, source, root, **changes)
    found = encoding.pictures(place, images)
    store = encoding.latents(place, found, shape or (resolution, resolution), view)
    digests = [found[image].digest for image in images]
    return torch.stack([store[digest] for digest in digests]), digests


def embed(family, prompts, root, **changes):
    (store,) = encoding.embeddings(a_source(family, None, root, **changes), prompts)
    return torch.stack([store[encoding.prompt_name(prompt)] for prompt in prompts])


@pytest.fixture
def family(tiny_pipeline: Path) -> StableDiffusion:
    return StableDiffusion(tiny_pipeline)


def forbid(*_):
    raise AssertionError("an encoder was loaded although everything is cached")


def test_a_latent_is_the_posterior_mean_of_the_image(family, toy, tmp_path):
    from diffusers import AutoencoderKL
    from PIL import Image

    taken, _ = encode(family, ["w1", "l0", "w1"], toy.images, tmp_path)
    table = pq.read_table(toy.images)
    content = table["bytes"][table["image"].to_pylist().index("w1")].as_py()
    (tmp_path / "w1.png").write_bytes(content)
    pixels = np.array(Image.open(tmp_path / "w1.png").convert("RGB"), dtype=np.float32)
    vae = AutoencoderKL.from_pretrained(family.folder / "vae")
    with torch.no_grad():
        x = torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None]
        expected = vae.encode(x).latent_dist.mode()[0] * vae.config.scaling_factor
    assert taken.shape == (3, 4, 8, 8)
    torch.testing.assert_close(taken[0], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(taken[0], taken[2])


def test_a_hit_loads_no_encoder_and_reads_no_image(family, toy, tmp_path, monkeypatch):
    images, prompts = ["w0", "l3", "w7"], ["a bright square", "a dark one"]
    first, digest = encode(family, images, toy.images, tmp_path)
    texts = embed(family, prompts, tmp_path)
    monkeypatch.setattr(StableDiffusion, "image_encoder", forbid)
    monkeypatch.setattr(StableDiffusion, "prompt_encoder", forbid)
    monkeypatch.setattr(encoding, "_contents", lambda images, _: iter(images and forbid()))
    second, again = encode(family, images, toy.images, tmp_path)
    assert digest == again
    assert torch.equal(first, second)
    assert torch.equal(embed(family, prompts[::-1], tmp_path), texts.flip(0))


def test_prompt_embeddings_are_the_text_encoders(family, tmp_path):
    from transformers import CLIPTextModel, CLIPTokenizer

    found = embed(family, ["b", "a dark b"], tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(family.folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(family.folder / "text_encoder")
    tokens = tokenizer("a dark b", padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        expected = encoder(tokens.input_ids)[0]
    torch.testing.assert_close(found[1:], expected, atol=1e-5, rtol=1e-5)


def test_prompts_that_are_cut_are_counted(family, tmp_path):
    said: list[str] = []
    long = "a bright square " * 5
    embed(family, ["b", long, long + "b"], tmp_path, say=said.append)
    assert any("2 of 3 prompts are longer than the text encoder reads" in text for text in said)


def test_equal_images_are_encoded_once_and_new_ones_added(family, toy, tmp_path, monkeypatch):
    table = pq.read_table(toy.images)
    twice = tmp_path / "images.parquet"
    renamed = pa.table({"image": ["again"], "bytes": table["bytes"].slice(0, 1).combine_chunks()})
    pq.write_table(pa.concat_tables([table, renamed]), twice)
    encoded = []
    encoder = StableDiffusion.image_encoder

    def counting(self, device):
        encode = encoder(self, device)
        return lambda pixels: (encoded.append(len(pixels)), encode(pixels))[1]

    monkeypatch.setattr(StableDiffusion, "image_encoder", counting)
    encode(family, ["w0", "w1"], toy.images, tmp_path)
    rows, _ = encode(family, ["w0", "again", "w2"], twice, tmp_path)
    assert encoded == [2, 1]
    assert torch.equal(rows[0], rows[1])


def test_what_was_finished_before_a_kill_is_kept(family, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "SHARD_ROWS", 4)
    monkeypatch.setattr(encoding, "BATCH_PIXELS", 4 * 32 * 32)
    images = [f"w{i}" for i in range(10)]
    decode, decoded = encoding.pixels_of, []

    def killed(*arguments):
        decoded.append(arguments[0])
        if len(decoded) == 9:
            raise KeyboardInterrupt
        return decode(*arguments)

    monkeypatch.setattr(encoding, "pixels_of", killed)
    with pytest.raises(KeyboardInterrupt):
        encode(family, images, toy.images, tmp_path)
    shards = sorted(tmp_path.rglob("latents/*/*.safetensors"))
    assert len(shards) == 2
    before = [path.stat().st_mtime_ns for path in shards]
    monkeypatch.setattr(encoding, "pixels_of", decode)
    rows, _ = encode(family, images, toy.images, tmp_path)
    assert len(rows) == 10
    assert [path.stat().st_mtime_ns for path in shards] == before
    assert not list(tmp_path.rglob(".*"))


def test_a_remembered_digest_appears_whole(family, tmp_path, monkeypatch):
    """Several processes share the notes: one read half would name another store."""
    written = []
    write = Path.write_text
    monkeypatch.setattr(
        Path, "write_text", lambda self, text: (written.append(self), write(self, text))[1]
    )
    noted = StableDiffusion(family.folder, tmp_path / "notes")
    assert noted.digest("vae", "unet") == family.digest("vae", "unet")
    assert written
    assert all(path.suffix == ".partial" and not path.exists() for path in written)
    written.clear()
    again = StableDiffusion(family.folder, tmp_path / "notes")
    assert again.digest("vae", "unet") == family.digest("vae", "unet")
    assert not written


def _in_a_process(base, images, source, root, start):
    start.wait()
    encode(StableDiffusion(base), images, source, root)


def test_two_processes_may_encode_the_same_at_once(family, toy, tmp_path):
    images = [f"{side}{i}" for side in "wl" for i in range(16)]
    # Spawned, not forked: a fork copies torch's thread pools without their threads, and waits.
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    arguments = (family.folder, images, toy.images, tmp_path, start)
    worker = context.Process(target=_in_a_process, args=arguments)
    worker.start()
    _in_a_process(*arguments)  # the other one is this
    worker.join(120)
    assert worker.exitcode == 0
    rows, _ = encode(family, images, toy.images, tmp_path)
    assert rows.isfinite().all()


def test_another_vae_resolution_or_precision_has_a_store_of_its_own(
    family, toy, tmp_path, tiny_velocity_pipeline
):
    one, _ = encode(family, ["w0"], toy.images, tmp_path)
    encode(family, ["w0"], toy.images, tmp_path, resolution=16)
    half, _ = encode(family, ["w0"], toy.images, tmp_path, dtype=torch.float16)
    assert len(list((tmp_path / "latents").iterdir())) == 3
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), one, atol=1e-2, rtol=1e-2)
    assert family.digest("vae") == StableDiffusion(tiny_velocity_pipeline).digest("vae")
    assert family.digest("vae") != family.digest("unet")


def test_images_as_files_and_of_another_shape_are_cropped(family, toy, tmp_path):
    from PIL import Image

    path = tmp_path / "wide.png"
    Image.new("L", (90, 40), 128).save(path)
    rows, _ = encode(family, [str(path)], None, tmp_path)
    assert rows.shape == (1, 4, 8, 8)


def test_a_missing_or_broken_image_is_named(family, toy, tmp_path):
    with pytest.raises(views.ImageError, match=r"images.parquet lacks it: image 'nope'"):
        encode(family, ["w0", "nope"], toy.images, tmp_path)
    broken = tmp_path / "broken.parquet"
    pq.write_table(pa.table({"image": ["x"], "bytes": [b"no picture"]}), broken)
    with pytest.raises(views.ImageError, match="image 'x' cannot be decoded"):
        encode(family, ["x"], broken, tmp_path)
    (tmp_path / "no.parquet").write_bytes(b"PAR1")
    with pytest.raises(views.ImageError, match=r"no.parquet cannot be read"):
        encode(family, ["x"], tmp_path / "no.parquet", tmp_path)
    with pytest.raises(views.ImageError, match=r"gone.png: No such file"):
        encode(family, [str(tmp_path / "gone.png")], None, tmp_path)


def test_latents_of_another_vae_are_never_taken_for_this_ones(family, toy, tmp_path):
    import shutil

    from diffusers import AutoencoderKL

    one, _ = encode(family, ["w0", "l0"], toy.images, tmp_path)
    other = tmp_path / "other"
    shutil.copytree(family.folder, other)
    vae = AutoencoderKL.from_pretrained(other / "vae")
    with torch.no_grad():
        vae.quant_conv.bias += 1
    vae.save_pretrained(other / "vae")
    said: list[str] = []
    names = ["w0", "l0"]
    two, _ = encode(StableDiffusion(other), names, toy.images, tmp_path, say=said.append)
    digest = family.digest("vae")[:16]
    assert any(f"another VAE encoded ({digest}-32-float32)" in text for text in said)
    shift = vae.config.scaling_factor
    torch.testing.assert_close(two, one + shift, atol=1e-5, rtol=1e-5)
    again, _ = encode(family, ["w0", "l0"], toy.images, tmp_path)
    assert torch.equal(again, one)


def test_a_damaged_shard_and_a_disk_too_small_are_named(family, toy, tmp_path, monkeypatch):
    encode(family, ["w0"], toy.images, tmp_path)
    (shard,) = tmp_path.rglob("latents/*/*.safetensors")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    with pytest.raises(TrainingError, match=r"safetensors is damaged .*: delete it"):
        encode(family, ["w0"], toy.images, tmp_path)
    shard.unlink()
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(TrainingError, match=r"1 images at 32 x 32 need .* are free: make room"):
        encode(family, ["w0"], toy.images, tmp_path)
    monkeypatch.undo()
    encode(family, ["w0"], toy.images, tmp_path)
    assert shard.read_bytes() == whole


def test_mirrored_latents_are_those_of_the_mirrored_image(family, toy, tmp_path):
    from PIL import Image, ImageOps

    table = pq.read_table(toy.images)
    image = io.BytesIO(table["bytes"][0].as_py())
    ImageOps.mirror(Image.open(image)).save(tmp_path / "mirrored.png")
    name = table["image"][0].as_py()
    whole, digest = encode(family, [name], toy.images, tmp_path)
    turned, same = encode(family, [name], toy.images, tmp_path, view=View(mirrored=True))
    expected, _ = encode(family, [str(tmp_path / "mirrored.png")], None, tmp_path)
    assert torch.equal(turned, expected)
    assert not torch.equal(turned, whole)
    assert digest == same


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("shape", [(80, 40), (40, 80)])
def test_a_crop_is_where_the_images_content_puts_it(shape, mirrored, family, tmp_path):
    """At half the size: a crop of 32 x 32 out of 64 x 32 pixels, cut here by hand."""
    from PIL import Image, ImageOps

    width, height = shape
    picture = Image.new("RGB", shape)
    picture.putdata([(3 * x, 3 * y, 90) for y in range(height) for x in range(width)])
    picture.save(tmp_path / "long.png")
    view, path = View(2, mirrored), str(tmp_path / "long.png")
    found, (digest,) = encode(family, [path], None, tmp_path, view=view)
    top, left = view.corner(Picture(digest, width, height), (32, 32))
    assert (top, left)[width > height] > 0
    assert (top, left)[width < height] == 0
    turned = ImageOps.mirror(picture) if mirrored else picture
    scaled = turned.resize((width * 32 // 40, height * 32 // 40), Image.Resampling.LANCZOS)
    scaled.crop((left, top, left + 32, top + 32)).save(tmp_path / "crop.png")
    expected, _ = encode(family, [str(tmp_path / "crop.png")], None, tmp_path)
    # The crop itself lies between pixels, by half a one at most.
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)


def test_crops_differ_stay_and_are_told_where_they_lie():
    pictures = [Picture(f"{i:064x}", 200, 100) for i in range(200)]

    def lefts(view):
        return [view.corner(picture, (50, 50))[1] for picture in pictures]

    assert lefts(View(1)) == lefts(View(1)) != lefts(View(2))
    assert min(lefts(View(1))) >= 0
    assert max(lefts(View(1))) <= 50
    assert np.mean(lefts(View(1))) == pytest.approx(25, abs=4)
    assert View().corner(pictures[0], (50, 50)) == (0, 25)
    assert View(1).corner(Picture("0", 100, 100), (50, 50)) == (0, 0)
    assert lefts(View(1, mirrored=True)) == [50 - left for left in lefts(View(1))]
    assert View().corner(pictures[0], (50, 100)) == (0, 0)  # a bucket of its own shape


@pytest.mark.parametrize(
    ("image", "twin"),
    [("exif6.png", None), ("alpha.png", "alpha_on_white.png"), ("grey16.png", "grey8.png"),
     ("cmyk.jpg", "cmyk_rgb.png")],
)  # fmt: skip
def test_images_of_other_kinds_have_the_latent_of_their_plain_twin(image, twin, family, tmp_path):
    from PIL import Image, ImageOps

    folder = Path(__file__).parents[2] / ".." / "shared" / "cases" / "images"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    path = folder / twin if twin else tmp_path / "upright.png"
    if not twin:
        ImageOps.exif_transpose(Image.open(folder / image)).convert("RGB").save(path)
    found, _ = encode(family, [str(folder / image), str(path)], None, tmp_path)
    lossy = path.name == "cmyk_rgb.png"  # made by another conversion, a level apart here and there
    torch.testing.assert_close(found[0], found[1], atol=1e-2 if lossy else 1e-4, rtol=1e-4)
