"""Public data sets by name: found on this machine, or fetched, and read with their schema."""

from scalerec.data.public.finding import cache_folder, open_public
from scalerec.data.public.sets import Download, Package, PublicSet
from scalerec.data.public.table import PUBLIC

__all__ = ["PUBLIC", "Download", "Package", "PublicSet", "cache_folder", "open_public"]
