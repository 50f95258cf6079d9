{{/* Name of what there is once: begins with a letter, and leaves room for what KubeRay appends. */}}
{{- define "graft.name" -}}
{{- ternary .Release.Name (printf "graft-%s" .Release.Name) (hasPrefix "graft" .Release.Name) | replace "." "-" | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* Labels of every object. */}}
{{- define "graft.labels" -}}
app.kubernetes.io/name: graft
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "graft.release" . }}
{{- end }}

{{/* Label of everything of this release, jobs and all pods too. Not app.kubernetes.io/instance:
     Argo CD deletes what has that label and is in no chart, which jobs are not. */}}
{{- define "graft.release" -}}
graft.dev/release: {{ .Release.Name | quote }}
{{- end }}

{{/* Labels of pods, which policies select by: job, shared, serving or test. Takes root and role.
     They never change, since a pod's template that does means a new cluster. */}}
{{- define "graft.podLabels" -}}
{{ include "graft.release" .root }}
graft.dev/role: {{ .role }}
{{- end }}

{{/* Label of what Kueue admits from a queue: takes what has one, or none. */}}
{{- define "graft.queue" -}}
{{- with .queue -}}
kueue.x-k8s.io/queue-name: {{ . | quote }}
{{- end }}
{{- end }}

{{/* Release of Graft in the image: of its tag, where that is a version. */}}
{{- define "graft.imageRelease" -}}
{{- $tag := .Values.image.tag | default "" | trimPrefix "v" -}}
{{- .Values.image.release | default (regexMatch "^[0-9]+(\\.[0-9]+)+((a|b|rc|\\.dev|\\.post)[0-9]+)?$" $tag | ternary $tag .Chart.AppVersion) -}}
{{- end }}

{{/* The oldest client that makes right jobs of the profile, though it ignores keys of it that it does
     not know. Raised by the release that adds one which may not be ignored. */}}
{{- define "graft.minClient" -}}
0.1.0
{{- end }}

{{- define "graft.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{ .Values.image.repository }}{{ ternary "@" ":" (hasPrefix "sha256:" $tag) }}{{ $tag }}
{{- end }}

{{/* The service account of every pod. */}}
{{- define "graft.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "graft.name" .) -}}
{{- end }}

{{/* ConfigMap with the authorities of the store's certificate; empty: the image's. */}}
{{- define "graft.caConfigMap" -}}
{{- if .Values.store.caBundle }}{{ include "graft.name" . }}-ca{{ else }}{{ .Values.store.caConfigMap | default "" }}{{ end -}}
{{- end }}

{{/* A resource class by name, with its name: takes root and class. */}}
{{- define "graft.class" -}}
{{- $name := .class | default .root.Values.defaultClass -}}
{{- $class := get .root.Values.classes $name | required (printf "%s: there is no resource class '%s'; classes has: %s" .key $name (keys .root.Values.classes | sortAlpha | join ", ")) -}}
{{- merge (dict "name" $name) $class (dict "tmp" "5Gi") | toYaml -}}
{{- end }}

{{/* What a pod takes, a class or the head, in the profile's keys. */}}
{{- define "graft.profilePod" -}}
{{- range $key, $value := . }}
{{ trimSuffix "_name" (snakecase $key) }}: {{ eq $key "cpu" | ternary (toString $value) $value | toJson }}
{{- end }}
{{- end }}

{{/* A quantity of CPUs, so many times: of 250m and 3, 750m. */}}
{{- define "graft.times" -}}
{{- $cpu := toString .cpu -}}
{{- $cpus := float64 (trimSuffix "m" $cpu) -}}
{{- $milli := printf "%.0f" (mulf (ternary 1 1000 (hasSuffix "m" $cpu)) $cpus .count) | int64 -}}
{{- mod $milli 1000 | eq 0 | ternary (div $milli 1000 | toString) (printf "%dm" $milli) -}}
{{- end }}

{{/* A quantity of bytes as a number. */}}
{{- define "graft.bytes" -}}
{{- $units := dict "" 1.0 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 -}}
{{- printf "%.0f" (mulf (float64 (regexFind "^[0-9.]+" .)) (get $units (regexFind "[A-Za-z]*$" .))) -}}
{{- end }}

{{/* A quantity of bytes as Kubernetes' own programs write it: 4Gi for 4096Mi. KubeRay writes RayServices
     back whole, and Helm, which applies on the server, is then refused every field whose text that
     has changed. */}}
{{- define "graft.canonical" -}}
{{- $bytes := include "graft.bytes" . | int64 -}}
{{- $found := toString $bytes -}}
{{- $binary := list (list "Ki" 1024) (list "Mi" 1048576) (list "Gi" 1073741824) (list "Ti" 1099511627776) -}}
{{- $decimal := list (list "k" 1000) (list "M" 1000000) (list "G" 1000000000) (list "T" 1000000000000) -}}
{{- range hasSuffix "i" . | ternary $binary $decimal -}}
{{- if mod $bytes (index . 1 | int64) | eq 0 -}}
{{- $found = printf "%d%s" (div $bytes (index . 1 | int64)) (index . 0) -}}
{{- end -}}
{{- end -}}
{{- $found -}}
{{- end }}

{{/* Port that a policy lets pods reach: takes port, url, and default, the port of a URL without one. */}}
{{- define "graft.port" -}}
{{- $given := regexFind ":[0-9]+(/|$)" (.url | default "") | trimAll ":/" -}}
{{- .port | default $given | default (ternary 80 .default (hasPrefix "http://" (.url | default ""))) | int -}}
{{- end }}

{{/* Peers of a policy: takes namespace and cidrs; the former, where it is set. Everywhere is all but
     where nodes have their metadata: link-local addresses, and EC2's and Google's of IPv6. */}}
{{- define "graft.peers" -}}
{{- if .namespace -}}
- {{ include "graft.inNamespace" .namespace }}
{{- else -}}
{{- $metadata := dict "0.0.0.0/0" (list "169.254.0.0/16")
  "::/0" (list "fe80::/10" "fd00:ec2::/32" "fd20:ce::254/128") -}}
{{- range .cidrs }}
- ipBlock: {cidr: {{ . | quote }}{{ with get $metadata . }}, except: {{ toJson . }}{{ end }}}
{{- end }}
{{- end }}
{{- end }}

{{/* Selector of the submitters of earlier charts' jobs: the pods of a job that are not Ray's. */}}
{{- define "graft.submitters" -}}
matchLabels:
  {{- include "graft.podLabels" (dict "root" . "role" "job") | nindent 2 }}
matchExpressions:
  - {key: ray.io/is-ray-node, operator: DoesNotExist}
{{- end }}

{{/* KubeRay's operator, as both its chart and its plain manifests label it. */}}
{{- define "graft.operator" -}}
{{- with .Values.networkPolicy.operatorNamespace -}}
{{ include "graft.inNamespace" . }}
{{- else -}}
namespaceSelector: {}
{{- end }}
podSelector: {matchLabels: {app.kubernetes.io/component: kuberay-operator}}
{{- end }}

{{- define "graft.inNamespace" -}}
namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ . | quote }}}}
{{- end }}

{{/* What is served, as JSON: {apps: [...]}, one for each route, whose replicas answer for all models
     that have it: each with the name of the first, models (name and alias of each), class, gpus of a
     replica, min and max replicas, route, and path, which is the route without its last slash. */}}
{{- define "graft.applications" -}}
{{- $serving := .Values.serving -}}
{{- $alone := dict "name" $serving.model "route" "/" -}}
{{- $apps := dict -}}
{{- $routes := list -}}
{{- $seen := list -}}
{{- range $serving.model | empty | ternary $serving.models (list $alone) -}}
{{- $replicas := .replicas | default (dict "min" $serving.replicas "max" $serving.replicas) -}}
{{- $min := $replicas.min | default 1 | int -}}
{{- $max := $replicas.max | default $min | int -}}
{{- if lt $max $min -}}
{{- fail (printf "serving.models: replicas of '%s' are at least %d and at most %d" .name $min $max) -}}
{{- end -}}
{{- if has .name $seen -}}
{{- fail (printf "serving.models: '%s' stands twice; expected each model once" .name) -}}
{{- end -}}
{{- $seen = append $seen .name -}}
{{- $route := .route | default (printf "/%s" .name) -}}
{{- $class := include "graft.class" (dict "root" $ "key" "serving.class" "class" (.class | default $serving.class)) | fromYaml -}}
{{- $model := dict "name" .name "alias" (.alias | default $serving.alias) -}}
{{- $app := get $apps $route -}}
{{- if $app -}}
{{- if not (and (eq $app.class $class.name) (eq $app.min $min) (eq $app.max $max)) -}}
{{- fail (printf "serving.models: '%s' and '%s' have the route '%s', so that the same pods answer for both; give them the same class and replicas, or another route" $app.name .name $route) -}}
{{- end -}}
{{- $_ := set $app "models" (append $app.models $model) -}}
{{- else -}}
{{- $routes = append $routes $route -}}
{{- $_ := set $apps $route (dict
  "name" .name "models" (list $model) "min" $min "max" $max
  "route" $route "path" (trimSuffix "/" $route)
  "class" $class.name "gpus" (ternary 1 0 (not (empty $class.gpu)))
) -}}
{{- end -}}
{{- end -}}
{{- $served := list -}}
{{- range $routes -}}
{{- $served = append $served (get $apps .) -}}
{{- end -}}
{{- range $one := $served -}}
{{- range $other := $served -}}
{{- range list "/v1" "/healthz" "/docs" "/openapi.json" -}}
{{- if hasPrefix (printf "%s%s/" $one.path .) (printf "%s/" $other.path) -}}
{{- fail (printf "serving.models: the route '%s' of '%s' lies among the paths of '%s' (%s%s); choose another" $other.route $other.name $one.name $one.path .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- dict "apps" $served | toJson -}}
{{- end }}

{{/* Worker pods of serving, as JSON: {groups: [...]}, a graft.workerGroup for each class that has
     models, with a pod for each replica. */}}
{{- define "graft.servingGroups" -}}
{{- $pods := dict -}}
{{- range (include "graft.applications" . | fromJson).apps -}}
{{- $_ := set $pods .class (add (get $pods .class | default 0) .max) -}}
{{- end -}}
{{- $groups := list -}}
{{- range $class, $workers := $pods -}}
{{- $gpus := ternary 1 0 (not (empty (get (get $.Values.classes $class) "gpu"))) -}}
{{- $groups = append $groups (include "graft.workerGroup" (dict
  "root" $ "key" "serving.class" "class" $class
  "workers" $workers "cpus" $.Values.serving.cpusPerReplica "gpus" $gpus
) | fromJson) -}}
{{- end -}}
{{- dict "groups" $groups | toJson -}}
{{- end }}

{{/* File of the keys of those who may ask served models, in serving's pods; empty: everybody may. */}}
{{- define "graft.servingKeys" -}}
{{- $serving := .Values.serving -}}
{{- if and $serving.keysSecret $serving.noAuth -}}
{{- fail "serving.keysSecret and serving.noAuth: either those who have a key may ask, or everybody; set one of the two" -}}
{{- end -}}
{{- if not (or $serving.keysSecret $serving.noAuth) -}}
{{- fail "serving.keysSecret: it names no Secret, so everybody who reaches the Service could ask. Make one:\n\n  graft keys new keys.json NAME\n  kubectl create secret generic graft-keys --from-file=keys.json\n\nand set serving.keysSecret=graft-keys. As earlier charts did it, without keys: serving.noAuth=true" -}}
{{- end -}}
{{- if $serving.keysSecret }}/etc/graft/keys/keys.json{{ end -}}
{{- end }}
