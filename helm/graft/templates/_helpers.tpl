{{/* Name of what there is once: begins with a letter, and leaves room for what KubeRay appends. */}}
{{- define "graft.name" -}}
{{- ternary .Release.Name (printf "graft-%s" .Release.Name) (hasPrefix "graft" .Release.Name) | replace "." "-" | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* Labels of every object. */}}
{{- define "graft.labels" -}}
app.kubernetes.io/name: graft
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "graft.release" . }}
{{- end }}

{{/* Label of everything of this release, jobs and all pods too. Not app.kubernetes.io/instance:
     Argo CD deletes what has that label and is in no chart, which jobs are not. */}}
{{- define "graft.release" -}}
graft.dev/release: {{ .Release.Name }}
{{- end }}

{{/* Labels of pods, which policies select by: job, shared, serving or test. Takes root and role.
     They never change, since a pod's template that does means a new cluster. */}}
{{- define "graft.podLabels" -}}
{{ include "graft.release" .root }}
graft.dev/role: {{ .role }}
{{- end }}

{{- define "graft.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{ .Values.image.repository }}{{ ternary "@" ":" (hasPrefix "sha256:" $tag) }}{{ $tag }}
{{- end }}

{{/* ConfigMap with the authorities of the store's certificate; empty: the image's. */}}
{{- define "graft.caConfigMap" -}}
{{- if .Values.store.caBundle }}{{ include "graft.name" . }}-ca{{ else }}{{ .Values.store.caConfigMap | default "" }}{{ end -}}
{{- end }}

{{/* A resource class by name, with its name: takes root and class. */}}
{{- define "graft.class" -}}
{{- $name := .class | default .root.Values.defaultClass -}}
{{- $class := get .root.Values.classes $name | required (printf "%s: there is no resource class '%s'; classes has: %s" .key $name (keys .root.Values.classes | sortAlpha | join ", ")) -}}
{{- merge (dict "name" $name) $class | toYaml -}}
{{- end }}

{{/* A quantity of CPUs, so many times: of 250m and 3, 750m. */}}
{{- define "graft.times" -}}
{{- $cpus := float64 (trimSuffix "m" .cpu) -}}
{{- printf "%.0fm" (mulf (ternary 1 1000 (hasSuffix "m" .cpu)) $cpus .count) -}}
{{- end }}

{{/* Port that a policy lets pods reach: takes port, url, and default, the port of a URL without one. */}}
{{- define "graft.port" -}}
{{- $given := regexFind ":[0-9]+(/|$)" (.url | default "") | trimAll ":/" -}}
{{- .port | default $given | default (ternary 80 .default (hasPrefix "http://" (.url | default ""))) | int -}}
{{- end }}

{{/* Peers of a policy: takes namespace and cidrs; the former, where it is set. Everywhere is all but
     link-local addresses, where nodes have their metadata. */}}
{{- define "graft.peers" -}}
{{- if .namespace -}}
- {{ include "graft.inNamespace" .namespace }}
{{- else -}}
{{- range .cidrs }}
- ipBlock: {cidr: {{ . | quote }}{{ if eq . "0.0.0.0/0" }}, except: [169.254.0.0/16]{{ end }}}
{{- end }}
{{- end }}
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
namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ . }}}}
{{- end }}
