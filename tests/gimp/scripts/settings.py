"""The settings without a window: a clear error."""

import inside
from gi.repository import Gimp

procedure = Gimp.get_pdb().lookup_procedure("dimilinks-settings")
config = procedure.create_config()
config.set_property("run-mode", Gimp.RunMode.NONINTERACTIVE)
status = int(procedure.run(config).index(0))
inside.found([status, Gimp.get_pdb().get_last_error()])
