"""A call of the procedure from Script-Fu, without most of its arguments."""

import inside
from gi.repository import Gimp

image, layer = inside.photo()
image.select_rectangle(Gimp.ChannelOps.REPLACE, 200, 100, 200, 150)
procedure = Gimp.get_pdb().lookup_procedure("plug-in-script-fu-eval")
config = procedure.create_config()
config.set_property("run-mode", Gimp.RunMode.NONINTERACTIVE)
config.set_property(
    "script",
    f"(dimilinks-edit #:run-mode RUN-NONINTERACTIVE #:image {image.get_id()} "
    f'#:drawables #({layer.get_id()}) #:prompt "素描 sketch")',
)
result = procedure.run(config)
inside.found(
    [
        int(result.index(0)),
        [[each.get_name(), each.get_mask() is not None] for each in image.get_layers()],
    ]
)
