"""libnftables through ctypes: nft's own syntax, one transaction a call, no process (0.1 ms against 3.5 ms)."""

import ctypes
import json

from boxwright.errdefs import System
from boxwright.linux.netlink import Socket
from boxwright.network import foreign_sets

_OUTPUT_JSON = 1 << 4  # NFT_CTX_OUTPUT_JSON
_OUTPUT_HANDLE = 1 << 3  # NFT_CTX_OUTPUT_HANDLE


class Nftables:
    """A libnftables context.  Not safe for use by two threads; its socket belongs to the namespace it is made in."""

    def __init__(self) -> None:
        """Raises System when the library is missing."""
        try:
            library = ctypes.CDLL("libnftables.so.1", use_errno=True)
        except OSError as error:
            raise System(f"libnftables is needed for container networks (Debian: libnftables1): {error}") from error
        context, text = ctypes.c_void_p, ctypes.c_char_p
        for name, arguments, result in (
            ("nft_ctx_new", [ctypes.c_uint32], context),
            ("nft_ctx_free", [context], None),
            ("nft_ctx_buffer_output", [context], ctypes.c_int),
            ("nft_ctx_buffer_error", [context], ctypes.c_int),
            ("nft_ctx_get_output_buffer", [context], text),
            ("nft_ctx_get_error_buffer", [context], text),
            ("nft_ctx_output_set_flags", [context, ctypes.c_uint], None),
            ("nft_run_cmd_from_buffer", [context, text], ctypes.c_int),
        ):
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, result
        self._library = library
        self._context = library.nft_ctx_new(0)
        if not self._context:
            raise System("libnftables could not open a netlink socket")
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)
        # nft_ctx_input_get_flags came with 1.0.9, which reads every set.
        fragile = not hasattr(library, "nft_ctx_input_get_flags")
        self._sets: Socket | None = foreign_sets.open_socket() if fragile else None

    def close(self) -> None:
        """Free the context."""
        self._library.nft_ctx_free(self._context)
        if self._sets is not None:
            self._sets.close()

    def run(self, commands: str) -> None:
        """Carry out `commands` (nft's syntax) as one transaction; raises NftablesError with nft's own text."""
        if self._sets is not None and (found := foreign_sets.deadly(self._sets)):
            raise NftablesError(
                f"nftables: set {found!r} was written by a newer nftables than this machine's libnftables can read"
                " (1.0.9 could): remove its table, or install a newer libnftables1"
            )
        if self._library.nft_run_cmd_from_buffer(self._context, commands.encode()):
            text = self._library.nft_ctx_get_error_buffer(self._context).decode(errors="replace")
            raise NftablesError(f"nftables: {text.strip()}")

    def query(self, command: str) -> list[dict[str, dict[str, object]]]:
        """The objects that a `list` command shows, as nft's JSON has them."""
        self._library.nft_ctx_output_set_flags(self._context, _OUTPUT_JSON | _OUTPUT_HANDLE)
        try:
            self.run(command)
            text = self._library.nft_ctx_get_output_buffer(self._context)
        finally:
            self._library.nft_ctx_output_set_flags(self._context, 0)
        return json.loads(text)["nftables"] if text.strip() else []


class NftablesError(System):
    """A transaction was refused; nothing of it was done."""
