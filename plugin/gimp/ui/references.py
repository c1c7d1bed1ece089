"""The list of references: pictures that the service looks at in addition to the edited one."""

from __future__ import annotations

from pathlib import Path

from gi.repository import Gimp, GLib, Gtk, Pango

from plugin.gimp.translation import _
from plugin.gimp.ui import thumbnails
from plugin.gimp.ui.questions import FreshMenuButton

_SIDE = 36
_MENU_SIDE = 24


class References(Gtk.Box):
    """The list of references, with buttons to add picture files and layers of any open image."""

    def __init__(self) -> None:
        super().__init__(orientation=Gtk.Orientation.VERTICAL, spacing=6)
        self._chosen: list[tuple[Gimp.Drawable | str, Gtk.Widget]] = []
        title = Gtk.Label(
            label=_("Reference pictures that the service may look at:"), xalign=0, wrap=True
        )
        self._list = Gtk.Box(orientation=Gtk.Orientation.VERTICAL, spacing=3)
        buttons = Gtk.Box(spacing=6)
        add_layer = FreshMenuButton(_("Add _Layer"), self._offer_layers)
        add_file = Gtk.Button(label=_("Add _Files…"), use_underline=True)
        # Open the dialog after the signal of the button has ended. A dialog inside the signal would
        # keep screen readers waiting.
        add_file.connect("clicked", lambda _button: GLib.idle_add(self._choose_files))
        buttons.pack_start(add_layer, False, False, 0)
        buttons.pack_start(add_file, False, False, 0)
        for each in (title, self._list, buttons):
            self.pack_start(each, False, False, 0)

    @property
    def layers(self) -> list[Gimp.Drawable]:
        """The layers in the list. The user may have deleted some of these layers meanwhile."""
        return [one for one, _row in self._chosen if not isinstance(one, str)]

    @property
    def files(self) -> list[str]:
        """The paths of the files in the list."""
        return [one for one, _row in self._chosen if isinstance(one, str)]

    def add(self, reference: Gimp.Drawable | str) -> None:
        """Add a layer, or a picture file by its path, unless the list already contains it."""
        if any(one == reference for one, _row in self._chosen):
            return
        if isinstance(reference, str):
            name, hint = Path(reference).name, reference
            picture = thumbnails.of_file(reference, _SIDE)
        else:
            name = reference.get_name()
            hint = _("Layer of “{image}”").format(image=reference.get_image().get_name())
            picture = thumbnails.of_drawable(reference, _SIDE)
        row = Gtk.Box(spacing=6)
        icon = Gtk.Image.new_from_icon_name("image-missing", Gtk.IconSize.DND)
        if picture is not None:
            icon.set_from_pixbuf(picture)
        icon.set_size_request(_SIDE, _SIDE)
        label = Gtk.Label(label=name, xalign=0, ellipsize=Pango.EllipsizeMode.MIDDLE)
        label.set_tooltip_text(hint)
        remove = Gtk.Button.new_from_icon_name("list-remove", Gtk.IconSize.BUTTON)
        remove.set_relief(Gtk.ReliefStyle.NONE)
        remove.set_tooltip_text(_("Remove from the list"))
        remove.get_accessible().set_name(_("Remove “{name}” from the list").format(name=name))
        remove.connect("clicked", lambda _button: self._remove(row))
        row.pack_start(icon, False, False, 0)
        row.pack_start(label, True, True, 0)
        row.pack_end(remove, False, False, 0)
        row.show_all()
        self._list.pack_start(row, False, False, 0)
        self._chosen.append((reference, row))

    def _remove(self, row: Gtk.Widget) -> None:
        self._chosen = [each for each in self._chosen if each[1] is not row]
        row.destroy()

    def _offer_layers(self, menu: Gtk.Menu) -> None:
        """Add the current layers of all open images to the menu."""
        for image in Gimp.get_images():
            item = Gtk.MenuItem(label=image.get_name())
            submenu = Gtk.Menu()
            for layer in _all_layers(image.get_layers()):
                submenu.append(self._menu_item(layer))
            item.set_submenu(submenu)
            menu.append(item)

    def _menu_item(self, layer: Gimp.Layer) -> Gtk.MenuItem:
        item = Gtk.MenuItem()
        content = Gtk.Box(spacing=6)
        picture = Gtk.Image.new_from_pixbuf(thumbnails.of_drawable(layer, _MENU_SIDE))
        content.pack_start(picture, False, False, 0)
        content.pack_start(Gtk.Label(label=layer.get_name(), xalign=0), True, True, 0)
        item.add(content)
        item.get_accessible().set_name(layer.get_name())
        item.connect("activate", lambda _item: self.add(layer))
        return item

    def _choose_files(self) -> None:
        chooser = Gtk.FileChooserDialog(
            title=_("References"),
            transient_for=self.get_toplevel(),
            action=Gtk.FileChooserAction.OPEN,
            select_multiple=True,
        )
        chooser.add_button(_("_Cancel"), Gtk.ResponseType.CANCEL)
        chooser.add_button(_("_Add"), Gtk.ResponseType.OK)
        chooser.set_default_response(Gtk.ResponseType.OK)
        pictures = Gtk.FileFilter()
        pictures.set_name(_("Pictures"))
        pictures.add_mime_type("image/*")
        # Also list GIMP's own XCF files, because the plug-in lets GIMP open the references.
        pictures.add_pattern("*.xcf")
        chooser.add_filter(pictures)
        if chooser.run() == Gtk.ResponseType.OK:
            for path in chooser.get_filenames():
                self.add(path)
        chooser.destroy()


def _all_layers(layers: list[Gimp.Layer]) -> list[Gimp.Layer]:
    found = []
    for layer in layers:
        found.append(layer)
        if layer.is_group():
            found += _all_layers(layer.get_children())
    return found
