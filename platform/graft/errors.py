"""The errors that Graft raises on purpose.

::

    GraftError                  exit code 1
    ├── InputError              exit code 2: the user's input, or what it points at, is wrong
    │   ├── SpecError           a job spec: unknown key, wrong type, settings in conflict
    │   ├── DataError           a dataset or its source
    │   │   └── ImageError      the bytes of one image
    │   │       └── ImageTooLarge   more pixels than anyone decodes
    │   ├── WeightsError        backbone weights that cannot be had or do not fit
    │   │   └── WeightsLost     exit code 75: what publishes them does not answer
    │   ├── NotShown            held-out images do not show what is asked of them
    │   ├── NotFoundError       no dataset version, run, model or alias has that name
    │   ├── ResourceError       the cluster lacks what was asked for; a port is in use
    │   │   ├── ClusterLost     exit code 75: the cluster does not answer
    │   │   └── QuotaFull       exit code 75: other jobs hold what this one needs
    │   └── StoreError          bucket, credentials, endpoint, a damaged object
    │       ├── StoreDenied     the credentials may not do that
    │       ├── StoreLost       exit code 75: the store does not answer
    │       ├── ObjectNotFound  no object at that key
    │       ├── ObjectUnreadable    an object that its store has, and does not give
    │       │   └── ObjectBroken    exit code 75: the connection broke off each time
    │       ├── ObjectDamaged   an object that is not what was committed, or of a newer release
    │       ├── ObjectExists    an exclusive create lost: another writer has the key
    │       └── ObjectChanged   a conditional replace lost: another writer was first
    ├── RunFailed               training stopped by itself and cannot go on
    │   └── GaveUp              all restarts are used up; on another cluster it may work
    ├── StillRuns               exit code 75: a job has not ended within the time that was given
    ├── ServingError            a server that does not answer as it should
    │   └── ServingLost         exit code 75: it does not answer, or has too much to do
    └── Interrupted             exit code 130: the user stopped it

A message says what was found, what was expected and what to do. The command line prints
the message alone; ``--debug`` adds the traceback.
"""

TRY_LATER = 75
"""Exit code where the same command may work later: sysexits' EX_TEMPFAIL."""


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


class WeightsLost(WeightsError):  # noqa: N818
    """What publishes the weights does not answer, or not to the end."""

    exit_code = TRY_LATER


class NotShown(InputError):  # noqa: N818
    """Held-out images do not show it: they are too few, or it does not help."""


class NotFoundError(InputError):
    """There is nothing of that name."""


class ResourceError(InputError):
    """The cluster or the machine lacks what was asked for."""


class ClusterLost(ResourceError):  # noqa: N818
    """The cluster does not answer; what runs there may well go on."""

    exit_code = TRY_LATER


class QuotaFull(ResourceError):  # noqa: N818
    """Others hold so much of a namespace's quota that a job has no room in it now."""

    exit_code = TRY_LATER


class StoreError(InputError):
    """The store cannot be reached or used."""


class StoreDenied(StoreError):  # noqa: N818
    """The credentials may not do that with the store."""


class StoreLost(StoreError):  # noqa: N818
    """The store does not answer; what is in it may well be there."""

    exit_code = TRY_LATER


class ObjectNotFound(StoreError):  # noqa: N818 - a state, caught by callers, seldom an error
    """There is no object at that key."""


class ObjectUnreadable(StoreError):  # noqa: N818
    """That one object cannot be read, as far as is known; others can."""


class ObjectDamaged(StoreError):  # noqa: N818
    """An object is not what was committed, or of a newer release; to try again is no use."""


class ObjectBroken(ObjectUnreadable):
    """That one object did not come to its end, however often it was asked for."""

    exit_code = TRY_LATER


class ObjectExists(StoreError):  # noqa: N818
    """An exclusive create found the key taken."""


class ObjectChanged(StoreError):  # noqa: N818
    """A conditional replace found that the object had changed since it was read."""


class StillRuns(GraftError):  # noqa: N818
    """A job has not ended within the time that was given; it goes on."""

    exit_code = TRY_LATER


class RunFailed(GraftError):  # noqa: N818
    """Training stopped by itself and cannot go on."""


class GaveUp(RunFailed):
    """Workers died more often than they may be restarted."""


class ServingError(GraftError):
    """A server that does not answer as it should."""


class ServingLost(ServingError):  # noqa: N818
    """A server that does not answer, or says that it cannot just now."""

    exit_code = TRY_LATER


class Interrupted(GraftError):  # noqa: N818
    """Stopped by the user; what was committed stays."""

    exit_code = 130
