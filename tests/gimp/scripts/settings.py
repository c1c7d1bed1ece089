"""A call of the settings without a window, which must fail with a message."""

import inside
from gi.repository import Gimp

procedure = Gimp.get_pdb().lookup_procedure("dimilinks-settings")
config = procedure.create_config()
config.set_property("run-mode", Gimp.RunMode.NONINTERACTIVE)
status = int(procedure.run(config).index(0))
inside.found([status, Gimp.get_pdb().get_last_error()])
