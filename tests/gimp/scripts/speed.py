"""Measure how long edits take, beside the least that any plug-in needs and the plain plug-in.

The argument is a list of cases in JSON. A case has a `name`, the `file` of a photograph, a `prompt`
and the number of `times`. The photograph is cropped (`crop`: width, height, x, y), scaled
(`scale`), converted to Adobe RGB (`adobe`) and blurred (`blur`: pixels), as far as the case says
so; or it fills a `canvas`, which may have several `layers` and a layer `mask`. `select` is the
selected ellipse, `arguments` are further arguments of the edit, and `drawables` is the number of
layers that are edited together. With `limit`, the least that any plug-in needs is measured as well.
`naive` is how often the plain plug-in runs.
"""

import http.client
import json
import os
import subprocess
import time
from pathlib import Path

import inside
from gi.repository import Gegl, Gimp, Gio

HOME = Path(os.environ["DIMILINKS_HOME"])
TEMPORARY = Path(os.environ["TMPDIR"])
BASE_URL = os.environ["DIMILINKS_BASE_URL"]
# A program that loads the libraries that are needed for an edit, and encodes and decodes pictures.
BARE = """
import io, sys, time
import gi
gi.require_version("Gimp", "3.0")
gi.require_version("Gegl", "0.4")
from gi.repository import Gegl, Gimp
Gegl.init(None)
import concurrent.futures, filelock, requests
import cv2, numpy, PIL.Image, PIL.ImageCms
print(time.time())
QUICK = [
    cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE,
    cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG,
]
width, height, channels = map(int, sys.argv[1:4])
sizes = [(channels, sys.argv[5])] + [(4, path) for path in sys.argv[6:7]]
for channels, path in sizes:
    pixels = numpy.fromfile(path, numpy.uint8).reshape(height, width, channels)
    began = time.perf_counter()
    data = cv2.imencode(".png", pixels, QUICK)[1].tobytes()
    print(time.perf_counter() - began)
    open(path + ".png", "wb").write(data)
data = open(sys.argv[4], "rb").read()
began = time.perf_counter()
PIL.Image.open(io.BytesIO(data)).load()
print(time.perf_counter() - began)
"""


def timed(step):
    began = time.perf_counter()
    result = step()
    return time.perf_counter() - began, result


def opened(case):
    """Return the image of a case, and the layer to edit."""
    if "canvas" in case:
        return tiled(case)
    image = Gimp.file_load(Gimp.RunMode.NONINTERACTIVE, Gio.File.new_for_path(case["file"]))
    if "crop" in case:
        image.crop(*case["crop"])
    if "scale" in case:
        image.scale(*case["scale"])
    if case.get("adobe"):
        adobe = Gimp.ColorProfile.new_rgb_adobe()
        image.convert_color_profile(adobe, Gimp.ColorRenderingIntent.RELATIVE_COLORIMETRIC, True)
    layer = image.get_layers()[0]
    if "blur" in case:
        smooth = Gimp.DrawableFilter.new(layer, "gegl:gaussian-blur", "blur")
        for name in ("std-dev-x", "std-dev-y"):
            smooth.get_config().set_property(name, case["blur"])
        layer.merge_filter(smooth)
    return image, layer


def tiled(case):
    """Return an image whose top layer is filled with copies of the photograph, and this layer."""
    photograph = Gimp.file_load(Gimp.RunMode.NONINTERACTIVE, Gio.File.new_for_path(case["file"]))
    picture = photograph.get_layers()[0]
    width, height = case["canvas"]
    image = Gimp.Image.new(width, height, Gimp.ImageBaseType.RGB)
    layer = Gimp.Layer.new(
        image, "photograph", width, height, Gimp.ImageType.RGB_IMAGE, 100, Gimp.LayerMode.NORMAL
    )
    image.insert_layer(layer, None, 0)
    buffer, own = layer.get_buffer(), picture.get_buffer()
    across, down = picture.get_width(), picture.get_height()
    for y in range(0, height, down):
        for x in range(0, width, across):
            part = Gegl.Rectangle.new(0, 0, min(across, width - x), min(down, height - y))
            place = Gegl.Rectangle.new(x, y, part.width, part.height)
            own.copy(part, Gegl.AbyssPolicy.NONE, buffer, place)
    buffer.flush()
    layer.update(0, 0, width, height)
    for _number in range(case.get("layers", 1) - 1):
        more = Gimp.Layer.new_from_drawable(picture, image)
        image.insert_layer(more, None, 1)
        more.set_offsets((width - across) // 2, (height - down) // 2)
    if case.get("mask"):
        layer.add_mask(layer.create_mask(Gimp.AddMaskType.WHITE))
    photograph.delete()
    return image, layer


def edit(image, layers, case):
    """Make one edit, and return its time, when its parts were done, its region and its job."""
    # GIMP's window does this for its marching ants, after every change of the layers.
    Gimp.Selection.bounds(image)
    began = time.time()
    seconds, (status, message, results) = timed(
        lambda: inside.edit(image, layers, prompt=case["prompt"], **case.get("arguments", {}))
    )
    assert status == inside.SUCCESS, message
    job = max((HOME / "jobs").iterdir(), key=lambda folder: folder.stat().st_mtime)
    done = {
        name: (job / file).stat().st_mtime - began
        for name, file in (
            ("exported", "request.json"),
            ("fetched", "result-1.png"),
            # The picture itself is compressed later, and nobody waits for that.
            ("fitted", "state.json"),
            ("placed", "imported-1"),
        )
        # An earlier version has other names for them.
        if (job / file).exists()
    }
    region = json.loads((job / "request.json").read_text())["region"]
    replaced = {layer.get_id() for layer in layers}
    for made in results:
        if made.get_id() not in replaced:
            image.remove_layer(made)
    return {"began": began, "seconds": seconds, "done": done, "region": region, "job": str(job)}


def limit(image, layer, made):
    """Return the seconds that any plug-in needs at least for the edit `made`, by part."""
    box = made["region"]["content"]
    width, height = box["width"], box["height"]
    place = Gegl.Rectangle.new(box["x"], box["y"], width, height)
    buffer = layer.get_buffer()
    parts = {}
    parts["read"], pixels = timed(lambda: buffer.get(place, 1.0, None, Gegl.AbyssPolicy.NONE))
    raw = [TEMPORARY / "source"]
    raw[0].write_bytes(pixels)
    job = Path(made["job"])
    if (job / "mask.png").exists():
        over = image.get_selection().get_buffer()
        seconds, shares = timed(lambda: over.get(place, 1.0, "Y u8", Gegl.AbyssPolicy.NONE))
        parts["read"] += seconds
        raw.append(TEMPORARY / "mask")
        raw[1].write_bytes(b"".join(bytes((value,)) * 4 for value in shares))
    plug_in = Path(os.environ["GIMP3_DIRECTORY"], "plug-ins", "dimilinks_gimp")
    worker = Path((plug_in / "worker-python.txt").read_text().strip())
    libraries = next(worker.parents[1].glob("lib/python3*/site-packages"))
    command = ["/usr/bin/python3", "-c"]
    options = {"env": {**os.environ, "PYTHONPATH": str(libraries)}, "text": True}
    result = job / "result-1.png"
    words = [str(width), str(height), str(layer.get_bpp()), str(result), *map(str, raw)]
    began = time.time()
    said = subprocess.check_output([*command, BARE, *words], **options).split()
    parts["start"] = float(said[0]) - began
    parts["encode"] = sum(map(float, said[1:-1]))
    parts["decode"] = float(said[-1])
    sent = b"".join(Path(f"{path}.png").read_bytes() for path in raw)
    host = BASE_URL.removeprefix("http://").partition("/")[0]

    def move():
        """Send the bytes of the request, and then as many as the result has."""
        for path, body in (("/v1/images/edits", sent), ("/v1/images/edits", result.read_bytes())):
            connection = http.client.HTTPConnection(host)
            connection.request("POST", path, body)
            connection.getresponse().read()
            connection.close()

    parts["move"], _nothing = timed(move)
    new = Gimp.Layer.new(
        image, "limit", width, height, Gimp.ImageType.RGBA_IMAGE, 100, Gimp.LayerMode.NORMAL
    )
    image.insert_layer(new, None, 0)
    pixels = bytes(4 * width * height)

    def write():
        target = new.get_buffer()
        target.set(Gegl.Rectangle.new(0, 0, width, height), "R'G'B'A u8", pixels)
        target.flush()
        new.update(0, 0, width, height)

    parts["write"], _nothing = timed(write)
    image.remove_layer(new)
    return parts


def naive(image, layer):
    """Run the plain plug-in, and return its seconds and the bytes of its files."""
    procedure = Gimp.get_pdb().lookup_procedure("plain-edit")
    config = procedure.create_config()
    config.set_property("run-mode", Gimp.RunMode.NONINTERACTIVE)
    config.set_property("image", image)
    config.set_core_object_array("drawables", [layer])
    seconds, result = timed(lambda: procedure.run(config))
    assert int(result.index(0)) == inside.SUCCESS
    image.remove_layer(image.get_layers()[0])
    size = sum((TEMPORARY / f"{name}.png").stat().st_size for name in ("all", "mask"))
    return {"seconds": seconds, "bytes": size}


def measured(case):
    image, layer = opened(case)
    layers = [layer]
    for _number in range(case.get("drawables", 1) - 1):
        layers.append(layer.copy())
        image.insert_layer(layers[-1], None, 0)
    if case.get("select"):
        image.select_ellipse(Gimp.ChannelOps.REPLACE, *case["select"])
    edit(image, layers, case)  # The service makes its answer now, and only repeats it later.
    found = {"name": case["name"], "edits": [], "limits": [], "naive": []}
    for turn in range(case["times"]):
        made = edit(image, layers, case)
        found["edits"].append(made)
        if case.get("limit"):
            found["limits"].append(limit(image, layer, made))
        if turn < case.get("naive", 0):
            found["naive"].append(naive(image, layer))
    image.delete()
    return found


inside.found([measured(case) for case in json.loads(inside.ARGUMENTS[0])])
