"""A namespace of a Kubernetes cluster: its objects as plain JSON, its refusals as sentences."""

import json
import logging
import os
from pathlib import Path
from typing import Any, NoReturn

import kubernetes
from kubernetes.client.exceptions import ApiException
from kubernetes.config import kube_config
from kubernetes.config.config_exception import ConfigException
from kubernetes.config.kube_config import KubeConfigMerger
from requests.utils import get_environ_proxies, select_proxy
from urllib3.exceptions import HTTPError
from yaml import YAMLError

from graft.errors import ClusterLost, GraftError, InputError, NotFoundError, QuotaFull

TIMEOUT_S = (5, 30)
"""Seconds for connecting, and for an answer."""
PAGE = 500
"""Objects that a list's page has: of many at once an API server keeps others waiting."""
IN_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

KubeObject = dict[str, Any]
"""An object of Kubernetes, as its API writes it."""


class KubeConflict(GraftError):  # noqa: N818 - a state that callers handle
    """There is such an object already."""


class UnknownField(GraftError):  # noqa: N818
    """The cluster's resource has no such field."""


class Kube:
    """One namespace, with the rights of a kubeconfig's user."""

    def __init__(self, api: Any, namespace: str):
        self._api = api
        self.namespace = namespace
        self.server: str = api.configuration.host

    @classmethod
    def connect(cls, context: str | None = None, namespace: str | None = None) -> "Kube":
        """Use a kubeconfig (``KUBECONFIG``, else ~/.kube/config), or a pod's own service account.

        Args:
            context: name of a context in the kubeconfig; None: its current one.
            namespace: None: the context's.

        Raises:
            InputError: there is no kubeconfig, or not that context in it, or no way to log in.
        """
        configuration = kubernetes.client.Configuration()
        configuration.retries = 1
        standard = Path.home() / ".kube" / "config"
        has_kubeconfig = "KUBECONFIG" in os.environ or standard.exists()
        try:
            if context is None and not has_kubeconfig and IN_POD_NAMESPACE.exists():
                kubernetes.config.load_incluster_config(configuration)
                default = IN_POD_NAMESPACE.read_text().strip()
            else:
                default = _load_kubeconfig(configuration, context)
        except (ConfigException, YAMLError, OSError) as error:
            raise InputError(
                f"no usable kubeconfig ({' '.join(str(error).split())}); set KUBECONFIG or "
                "--kube-context, or name a running Ray cluster with --address"
            ) from error
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # it would log every retry
        _choose_proxy(configuration, context)
        return cls(kubernetes.client.ApiClient(configuration), namespace or default)

    def get(self, path: str, **query: str) -> Any:
        """Return the JSON at a path; `{ns}` in the path stands for the namespace.

        Raises:
            NotFoundError: there is nothing.
            InputError: the cluster refuses.
            QuotaFull: what others hold leaves no room.
            ClusterLost: it does not answer.
        """
        return self._request("GET", path, query)

    def items(self, path: str, **query: str) -> list[KubeObject]:
        """Return the objects of a list, which is read a page at a time."""
        objects, page = list[KubeObject](), {"limit": str(PAGE)}
        while True:
            answer = self.get(path, **query, **page)
            objects += answer["items"]
            rest = (answer.get("metadata") or {}).get("continue")
            if not rest:
                return objects
            page["continue"] = rest

    def text(self, path: str, **query: str) -> str:
        """Return the text at a path, such as a pod's log."""
        return str(self._request("GET", path, query, answer="str"))

    def create(self, path: str, body: KubeObject, **query: str) -> KubeObject:
        """Create an object; a field that the cluster does not know is an error.

        Raises:
            KubeConflict: there is an object of that name.
            UnknownField: the cluster does not know one of its fields.
        """
        created: KubeObject = self._request(
            "POST", path, query | {"fieldValidation": "Strict"}, body
        )
        return created

    def user(self) -> str | None:
        """Return who the API server takes this user for; None: it does not say (before 1.28)."""
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        try:
            answer = self.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", review)
        except ClusterLost:
            raise
        except InputError:
            return None
        return str(answer["status"]["userInfo"]["username"])

    def delete(self, path: str, uid: str | None = None) -> None:
        """Delete an object; what it owns is deleted after it.

        `uid`: of the object that is meant; None: whichever has that name.

        Raises:
            KubeConflict: another object has the name.
        """
        options: KubeObject = {"apiVersion": "v1", "kind": "DeleteOptions"}
        options["propagationPolicy"] = "Background"
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        self._request("DELETE", path, {}, options)

    def _request(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        body: KubeObject | None = None,
        answer: str = "object",
    ) -> Any:
        try:
            content = self._api.call_api(
                path.replace("{ns}", self.namespace),
                method,
                query_params=list(query.items()),
                header_params={"Accept": "application/json, */*"},
                body=body,
                response_type=answer,
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _request_timeout=TIMEOUT_S,
            )
        except ApiException as error:
            self._refused(error)
        except (HTTPError, OSError) as error:
            raise ClusterLost(
                f"no answer from Kubernetes at {self.server}: {_cause(error)}"
            ) from error
        if answer == "object" and not isinstance(content, dict):
            raise InputError(
                f"what answers at {self.server} is no Kubernetes; check the kubeconfig's server, "
                f"and the proxy: {' '.join(str(content).split())[:100]}"
            )
        return content

    def _refused(self, error: ApiException) -> NoReturn:
        message = _message(error)
        if error.status == 401:
            raise InputError(
                f"Kubernetes at {self.server} does not accept this kubeconfig's credentials; "
                "log in again"
            ) from error
        if error.status == 403:
            if "exceeded quota" in message:
                raise QuotaFull(
                    f"Kubernetes refuses: {message}; try again when other jobs have ended"
                ) from error
            if " cannot " not in message:  # a namespace that is going
                raise InputError(f"Kubernetes refuses: {message}") from error
            if "at the cluster scope" in message:
                raise InputError(f"no permission: {message}") from error
            raise InputError(
                f"no permission in namespace {self.namespace}: {message}; ask its owners to add "
                "you to `submitters` of Graft's chart"
            ) from error
        if error.status == 404:
            raise NotFoundError(f"Kubernetes: {message}") from error
        if "strict decoding error" in message:
            raise UnknownField(message) from error
        if error.status == 409:
            raise KubeConflict(message) from error
        if error.status == 410:
            raise ClusterLost(
                f"what Kubernetes at {self.server} lists has changed too much meanwhile; try again"
            ) from error
        if error.status is not None and (error.status >= 500 or error.status == 429):
            raise ClusterLost(f"Kubernetes at {self.server} fails: {message}") from error
        raise InputError(f"Kubernetes refuses: {message}") from error


def _load_kubeconfig(configuration: Any, context: str | None) -> str:
    """Load a context into a configuration; return its namespace."""
    merged = KubeConfigMerger(kube_config.KUBE_CONFIG_DEFAULT_LOCATION).config
    if merged is None:
        raise ConfigException("there is none")
    contexts = {node["name"]: node.value for node in merged.safe_get("contexts") or ()}
    name = context or merged.safe_get("current-context")
    if not name:
        raise InputError(
            f"the kubeconfig has no current context; choose one with --kube-context: "
            f"{', '.join(sorted(contexts))}"
        )
    if name not in contexts:
        raise InputError(
            f"no context '{name}' in the kubeconfig; it has: {', '.join(sorted(contexts))}"
        )
    settings = contexts[name].get("context") or {}
    user = settings.get("user")
    logging.disable()  # the client would log how logging in failed, and go on as nobody
    try:
        kubernetes.config.load_kube_config(context=name, client_configuration=configuration)
    except AttributeError as error:  # the plugin that logs in has written nothing
        raise ConfigException(f"logging in as '{user}' failed") from error
    finally:
        logging.disable(logging.NOTSET)
    if not (configuration.api_key or configuration.cert_file or configuration.username):
        raise InputError(
            f"context '{name}' of the kubeconfig gives no credentials: logging in as "
            f"'{user}' failed (does its plugin run?)"
        )
    return str(settings.get("namespace", "default"))


def _choose_proxy(configuration: Any, context: str | None) -> None:
    """Have the client use the proxy that kubectl would: a cluster's own, else the environment's.

    The client itself ignores a kubeconfig's ``proxy-url`` and NO_PROXY, and takes HTTP_PROXY for
    https.
    """
    server = str(configuration.host)
    own = _cluster_setting("proxy-url", context)
    configuration.proxy = own or select_proxy(server, get_environ_proxies(server)) or None
    configuration.no_proxy = None  # what it says is decided


def _cluster_setting(name: str, context: str | None) -> str | None:
    """Return a setting of the kubeconfig's cluster that a context names; None: there is none."""
    try:
        merged = KubeConfigMerger(kube_config.KUBE_CONFIG_DEFAULT_LOCATION).config
    except (ConfigException, YAMLError, OSError):
        return None
    if merged is None:
        return None
    contexts = {node["name"]: node.value for node in merged.safe_get("contexts") or ()}
    chosen = contexts.get(context or merged.safe_get("current-context"))
    clusters = {node["name"]: node.value for node in merged.safe_get("clusters") or ()}
    cluster = clusters.get((chosen or {}).get("context", {}).get("cluster"))
    value = ((cluster or {}).get("cluster") or {}).get(name)
    return str(value) if value else None


def _message(error: ApiException) -> str:
    """Return the API server's reason, on a line."""
    try:
        message = str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        message = f"{error.status} {error.reason}"
    return " ".join(message.split())


def _cause(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return str(reason).rpartition(": ")[2] or type(error).__name__
