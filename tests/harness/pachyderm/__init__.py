"""A server that answers as the S3 gateway of Pachyderm does, versions 1.x and 2.x.

What it answers is taken from the gateway's source: github.com/pachyderm/pachyderm,
``src/server/pfs/s3`` (branches 1.13.x, 2.x) and its library github.com/pachyderm/s2. State is in
memory. What matters to its clients:

* A bucket is ``branch.repo``; ``repo`` alone is its branch ``master``; 2.x also takes
  ``commit.branch.repo[.project]``. Each PUT, copy and deletion is a commit of its own, which starts
  the pipelines that read the branch.
* Conditions are honoured by GET and HEAD alone. A copy's ``x-amz-copy-source-if-match`` is never
  true, as a quoted ETag is compared with an unquoted one. ETags are hashes of the content.
* There is no user metadata, no ListObjectsV2 and no ``encoding-type``: those are ignored. What
  should be an UploadPartCopy stores an empty part. A copy onto itself is refused.
* A slash at the end of a key is refused with 400 by 1.x; by 2.x it is cut off, so that ``PUT d/``
  makes a file ``d``. A file below a file is refused by 1.x (400); 2.x takes it and the commit fails
  its validation afterwards, which is left out here: the branch keeps both.
* A HEAD of a directory's name shows an object as large as what is in it (1.x); 404 (2.x).
* Output branches of pipelines refuse writes with 400 WriteToOutputBranch, finished commits with
  500; a pipeline's own gateway answers 501 for its inputs, and shows nothing of its output.
* 1.x lists directory after directory, and still begins the next page after its largest key.
* Keys are printable ASCII without globbing characters, or 400. Bodies end at 128 MiB in 1.x.
"""

from tests.harness.pachyderm.repositories import Branch, Gateway
from tests.harness.pachyderm.server import pachyderm

__all__ = ["Branch", "Gateway", "pachyderm"]
