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

from training import TrainingError, cache
from training.families import StableDiffusion

CPU = torch.device("cpu")


def encode(family, images, source, root, **changes):
    arguments = {"resolution": 32, "dtype": torch.float32, "device": CPU, "say": lambda text: None}
    found = cache.latents(family, images, source, root, **{**arguments, **changes})
    return found.rows, found.digest


@pytest.fixture
def family(tiny_pipeline: Path) -> StableDiffusion:
    return StableDiffusion(tiny_pipeline)


def forbid(*_):
    raise AssertionError("an encoder was loaded although everything is cached")


def test_a_latent_is_the_posterior_mean_of_the_image(family, toy, tmp_path):
    from diffusers import AutoencoderKL
    from PIL import Image

    rows, _ = encode(family, ["w1", "l0", "w1"], toy.images, tmp_path)
    table = pq.read_table(toy.images)
    content = table["bytes"][table["image"].to_pylist().index("w1")].as_py()
    (tmp_path / "w1.png").write_bytes(content)
    pixels = np.array(Image.open(tmp_path / "w1.png").convert("RGB"), dtype=np.float32)
    vae = AutoencoderKL.from_pretrained(family.folder / "vae")
    with torch.no_grad():
        x = torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None]
        expected = vae.encode(x).latent_dist.mode()[0] * vae.config.scaling_factor
    taken = rows.take(np.array([2, 0]))
    assert taken.shape == (2, 4, 8, 8)
    torch.testing.assert_close(taken[0], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(taken[0], taken[1])


def test_a_hit_loads_no_encoder_and_reads_no_image(family, toy, tmp_path, monkeypatch):
    images, prompts = ["w0", "l3", "w7"], ["a bright square", "a dark one"]
    first, digest = encode(family, images, toy.images, tmp_path)
    (texts,) = cache.prompt_embeddings(family, prompts, tmp_path, torch.float32, CPU, print)
    monkeypatch.setattr(StableDiffusion, "image_encoder", forbid)
    monkeypatch.setattr(StableDiffusion, "prompt_encoder", forbid)
    monkeypatch.setattr(cache, "_read_images", forbid)
    second, again = encode(family, images, toy.images, tmp_path)
    assert digest == again
    rows = np.arange(3)
    assert torch.equal(first.take(rows), second.take(rows))
    (hit,) = cache.prompt_embeddings(family, prompts[::-1], tmp_path, torch.float32, CPU, print)
    assert torch.equal(hit.take(np.array([1])), texts.take(np.array([0])))


def test_prompt_embeddings_are_the_text_encoders(family, tmp_path):
    from transformers import CLIPTextModel, CLIPTokenizer

    (rows,) = cache.prompt_embeddings(
        family, ["b", "a dark b"], tmp_path, torch.float32, CPU, print
    )
    tokenizer = CLIPTokenizer.from_pretrained(family.folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(family.folder / "text_encoder")
    tokens = tokenizer("a dark b", padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        expected = encoder(tokens.input_ids)[0]
    torch.testing.assert_close(rows.take(np.array([1])), expected, atol=1e-5, rtol=1e-5)


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
    rows, _ = encode(family, ["w0", "w1"], toy.images, tmp_path)
    rows, _ = encode(family, ["w0", "again", "w2"], twice, tmp_path)
    assert encoded == [2, 1]
    assert torch.equal(*rows.take(np.array([0, 1])))


def test_what_was_finished_before_a_kill_is_kept(family, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "SHARD_ROWS", 4)
    monkeypatch.setattr(cache, "BATCH_PIXELS", 4 * 32 * 32)
    images = [f"w{i}" for i in range(10)]
    read = cache._read_images

    def killed(*arguments):
        for i, item in enumerate(read(*arguments)):
            if i == 9:
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(cache, "_read_images", killed)
    with pytest.raises(KeyboardInterrupt):
        encode(family, images, toy.images, tmp_path)
    shards = sorted(tmp_path.rglob("latents/*/*.safetensors"))
    assert len(shards) == 2
    before = [path.stat().st_mtime_ns for path in shards]
    monkeypatch.setattr(cache, "_read_images", read)
    rows, _ = encode(family, images, toy.images, tmp_path)
    assert len(rows) == 10
    assert [path.stat().st_mtime_ns for path in shards] == before
    assert not list(tmp_path.rglob(".*"))


def _in_a_process(base, images, source, root, start):
    start.wait()
    encode(StableDiffusion(base), images, source, root)


def test_two_processes_may_encode_the_same_at_once(family, toy, tmp_path):
    images = [f"{side}{i}" for side in "wl" for i in range(16)]
    # Spawned, not forked: a fork copies torch's thread pools without their threads, and waits.
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    arguments = (family.folder, images, toy.images, tmp_path, start)
    workers = [context.Process(target=_in_a_process, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    rows, _ = encode(family, images, toy.images, tmp_path)
    assert rows.take(np.arange(32)).isfinite().all()


def test_another_vae_resolution_or_precision_has_a_store_of_its_own(
    family, toy, tmp_path, tiny_velocity_pipeline
):
    one, _ = encode(family, ["w0"], toy.images, tmp_path)
    encode(family, ["w0"], toy.images, tmp_path, resolution=16)
    half, _ = encode(family, ["w0"], toy.images, tmp_path, dtype=torch.float16)
    assert len(list((tmp_path / "latents").iterdir())) == 3
    row = np.array([0])
    assert half.take(row).dtype == torch.float16
    torch.testing.assert_close(half.take(row).float(), one.take(row), atol=1e-2, rtol=1e-2)
    assert family.digest("vae") == StableDiffusion(tiny_velocity_pipeline).digest("vae")
    assert family.digest("vae") != family.digest("unet")


def test_images_as_files_and_of_another_shape_are_cropped(family, toy, tmp_path):
    from PIL import Image

    path = tmp_path / "wide.png"
    Image.new("L", (90, 40), 128).save(path)
    rows, _ = encode(family, [str(path)], None, tmp_path)
    assert rows.take(np.array([0])).shape == (1, 4, 8, 8)


def test_a_missing_or_broken_image_is_named(family, toy, tmp_path):
    with pytest.raises(cache.ImageError, match="lacks 2 images, such as nope, nowhere"):
        encode(family, ["w0", "nowhere", "nope"], toy.images, tmp_path)
    broken = tmp_path / "broken.parquet"
    pq.write_table(pa.table({"image": ["x"], "bytes": [b"no picture"]}), broken)
    with pytest.raises(cache.ImageError, match="image 'x' cannot be decoded"):
        encode(family, ["x"], broken, tmp_path)
    pq.write_table(pa.table({"id": ["x"]}), broken)
    with pytest.raises(cache.ImageError, match=r"broken.parquet cannot be read"):
        encode(family, ["x"], broken, tmp_path)
    with pytest.raises(cache.ImageError, match=r"gone.png: No such file"):
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
    rows = np.arange(2)
    shift = vae.config.scaling_factor
    torch.testing.assert_close(two.take(rows), one.take(rows) + shift, atol=1e-5, rtol=1e-5)
    again, _ = encode(family, ["w0", "l0"], toy.images, tmp_path)
    assert torch.equal(again.take(rows), one.take(rows))


def test_a_damaged_shard_and_a_disk_too_small_are_named(family, toy, tmp_path, monkeypatch):
    encode(family, ["w0"], toy.images, tmp_path)
    (shard,) = tmp_path.rglob("latents/*/*.safetensors")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    with pytest.raises(TrainingError, match=r"safetensors is damaged .*: delete it"):
        encode(family, ["w0"], toy.images, tmp_path)
    shard.unlink()
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(TrainingError, match=r"up to 1 images at 32 px need .* are free: make room"):
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
    turned, same = encode(family, [name], toy.images, tmp_path, view=cache.View(mirrored=True))
    expected, _ = encode(family, [str(tmp_path / "mirrored.png")], None, tmp_path)
    row = np.array([0])
    assert torch.equal(turned.take(row), expected.take(row))
    assert not torch.equal(turned.take(row), whole.take(row))
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
    view = cache.View(2, mirrored)
    found = cache.latents(
        family, [str(tmp_path / "long.png")], None, tmp_path, 32, torch.float32, CPU, print, view
    )
    top, left = found.corners[0]
    assert (top, left)[width > height] > 0
    assert (top, left)[width < height] == 0
    turned = ImageOps.mirror(picture) if mirrored else picture
    scaled = turned.resize((width * 32 // 40, height * 32 // 40), Image.Resampling.LANCZOS)
    scaled.crop((left, top, left + 32, top + 32)).save(tmp_path / "crop.png")
    expected, _ = encode(family, [str(tmp_path / "crop.png")], None, tmp_path)
    row = np.array([0])
    # The crop itself lies between pixels, by half a one at most.
    torch.testing.assert_close(found.rows.take(row), expected.take(row), atol=0.05, rtol=0.05)


def test_crops_differ_stay_and_are_told_where_they_lie(family, tmp_path):
    digests = [f"{i:064x}" for i in range(200)]
    lefts = [cache.View(1).corner(digest, 200, 100, 50)[1] for digest in digests]
    assert lefts == [cache.View(1).corner(digest, 200, 100, 50)[1] for digest in digests]
    assert min(lefts) >= 0
    assert max(lefts) <= 50
    assert np.mean(lefts) == pytest.approx(25, abs=4)
    assert lefts != [cache.View(2).corner(digest, 200, 100, 50)[1] for digest in digests]
    assert cache.View().corner(digests[0], 200, 100, 50) == (0, 25)
    assert cache.View(1).corner(digests[0], 100, 100, 50) == (0, 0)
    mirrored = [cache.View(1, mirrored=True).corner(digest, 200, 100, 50)[1] for digest in digests]
    assert mirrored == [50 - left for left in lefts]
