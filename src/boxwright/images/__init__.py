"""Images: references, the store of images and their names, archives in and out, and the virtual image of the host."""
