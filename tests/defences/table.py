"""What stands between a hostile image, container or client and the host, and the tests that miss it when it is gone.

Each row names a section of docs/security.md, what is taken out of the source, and tests of which each must then fail.
Where two defences overlap, a row takes out both, and says so: either alone would still hold.
"""

import rows_containers
import rows_images
import rows_requests

DEFENCES = (*rows_containers.ROWS, *rows_images.ROWS, *rows_requests.ROWS)
