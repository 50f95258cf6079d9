"""HAProxy as a served model starts it: what Ray Serve's configuration of it does not let us say.

Ray Serve writes a configuration and starts the program that ``RAY_SERVE_HAPROXY_BINARY_PATH`` names
with it. That is a script of ours, which changes lines of the configuration and becomes HAProxy.
"""

import stat
from pathlib import Path

SCRIPT = """\
#!/bin/sh
# Its statistics and metrics would listen on all addresses; the server alone listens at HOST.
for word in "$@"; do
  case $word in
    *.cfg) sed -i \\
      -e '/^frontend http_frontend/,/^ *bind/ s/^\\( *bind \\)127\\.0\\.0\\.1:/\\1__HOST__:/' \\
      -e 's/^\\( *bind \\)\\*\\{0,1\\}:/\\1127.0.0.1:/' "$word" ;;
  esac
done
exec "__HAPROXY__" "$@"
"""


def write_script(folder: Path, host: str) -> Path:
    """Write the script that starts HAProxy into a folder; return its path.

    `host`: the address at which the server listens, which Ray Serve has at 127.0.0.1.
    """
    from ray.serve._private.haproxy import get_haproxy_binary

    path = folder / "haproxy"
    path.write_text(SCRIPT.replace("__HAPROXY__", get_haproxy_binary()).replace("__HOST__", host))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
