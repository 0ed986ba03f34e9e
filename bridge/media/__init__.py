"""Files that people send: the store, thumbnails, signed links. Pillow only here."""
