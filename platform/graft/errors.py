"""The errors that Graft raises on purpose.

::

    GraftError                  exit code 1
    ├── InputError              exit code 2: something the user gave, or points at, is wrong
    │   ├── SpecError           a job spec: unknown key, wrong type, settings in conflict
    │   ├── DataError           a dataset or its source
    │   │   └── ImageError      the bytes of one image
    │   │       └── ImageTooLarge   more pixels than anyone decodes
    │   ├── WeightsError        backbone weights that cannot be had or do not fit
    │   ├── NotFoundError       no dataset version, run, model or alias of that name
    │   ├── ResourceError       the cluster lacks what was asked for; a port is in use
    │   │   └── ClusterLost     it does not answer
    │   └── StoreError          bucket, credentials, endpoint, a damaged object
    │       ├── ObjectNotFound  no object at that key
    │       ├── ObjectExists    an exclusive create lost: the key is taken
    │       └── ObjectChanged   a conditional replace lost: the object moved on
    ├── RunFailed               training stopped by itself and cannot go on
    │   └── GaveUp              its restarts are used up; another cluster may do better
    ├── ServingError            a server that does not answer as it should
    └── Interrupted             exit code 130: the user stopped it

A message says what was found, what was expected and what to do. The command
line prints it on one line and shows a traceback only with ``--debug``.
"""


class GraftError(Exception):
    """Any failure that Graft can name."""

    exit_code = 1


class InputError(GraftError):
    """The user's input, or what it points at, is wrong."""

    exit_code = 2


class SpecError(InputError):
    """A job spec that cannot be run as it stands."""


class DataError(InputError):
    """A dataset, or the source of one, that cannot be used."""


class ImageError(DataError):
    """The bytes of one image cannot be used; the message is the reason alone."""


class ImageTooLarge(ImageError):  # noqa: N818
    """The image has more pixels than Graft decodes."""


class WeightsError(InputError):
    """Backbone weights that cannot be had, or do not fit."""


class NotFoundError(InputError):
    """Nothing of that name."""


class ResourceError(InputError):
    """The cluster or the machine lacks what was asked for."""


class ClusterLost(ResourceError):  # noqa: N818
    """The cluster does not answer; what runs there may well go on."""


class StoreError(InputError):
    """The store cannot be reached or used."""


class ObjectNotFound(StoreError):  # noqa: N818 - a state, caught by callers, seldom an error
    """No object at that key."""


class ObjectExists(StoreError):  # noqa: N818
    """An exclusive create found the key taken."""


class ObjectChanged(StoreError):  # noqa: N818
    """A conditional replace found another object than the one that was read."""


class RunFailed(GraftError):  # noqa: N818
    """Training stopped by itself and cannot go on."""


class GaveUp(RunFailed):
    """Workers died more often than they are started again."""


class ServingError(GraftError):
    """A server that does not answer as it should."""


class Interrupted(GraftError):  # noqa: N818
    """Stopped by the user; what was committed is kept."""

    exit_code = 130
