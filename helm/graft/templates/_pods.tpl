{{/* What all pods of the chart have in common with those of jobs (platform/graft/cluster/rayjob.py). */}}

{{- define "graft.podSpec" -}}
serviceAccountName: {{ include "graft.name" . }}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Takes root, cpu, memory, and gpu and gpus where it has some, and env, lines of more variables. */}}
{{- define "graft.container" -}}
{{- $values := .root.Values -}}
image: {{ include "graft.image" .root }}
imagePullPolicy: {{ $values.image.pullPolicy }}
env:
  - {name: GRAFT_STORE, value: {{ $values.store.uri | quote }}}
  - {name: GRAFT_CACHE, value: /cache}
  - {name: HOME, value: /tmp}
  - {name: RAY_USAGE_STATS_ENABLED, value: "0"}
  {{- with $values.store.endpoint }}
  - {name: AWS_ENDPOINT_URL, value: {{ . | quote }}}
  {{- end }}
  {{- if include "graft.caConfigMap" .root }}
  - {name: AWS_CA_BUNDLE, value: /etc/graft/ca/ca.crt}
  {{- end }}
  {{- range $name, $value := .env }}
  - {name: {{ $name }}, value: {{ $value | quote }}}
  {{- end }}
{{- with $values.store.secret }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
resources:
  requests:
    cpu: {{ .cpu | quote }}
    memory: {{ .memory | quote }}
    {{- if .gpus }}
    {{ .gpu }}: {{ .gpus | quote }}
    {{- end }}
  limits:
    memory: {{ .memory | quote }}
    {{- if .gpus }}
    {{ .gpu }}: {{ .gpus | quote }}
    {{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: cache, mountPath: /cache}
  {{- if include "graft.caConfigMap" .root }}
  - {name: ca, mountPath: /etc/graft/ca, readOnly: true}
  {{- end }}
{{- end }}

{{- define "graft.volumes" -}}
- {name: tmp, emptyDir: {}}
- {name: cache, emptyDir: {}}
{{- with include "graft.caConfigMap" . }}
- {name: ca, configMap: {name: {{ . }}}}
{{- end }}
{{- end }}

{{/* A RayClusterSpec, less what only serving has. Takes root; role, of its pods; key and class,
     workers, cpus, gpus and priority, as values say; env, of all pods. */}}
{{- define "graft.rayClusterSpec" -}}
{{- $class := include "graft.class" . | fromYaml -}}
{{- if and .gpus (not $class.gpu) -}}
{{- fail (printf "%s: resource class '%s' has no GPUs" .key $class.name) -}}
{{- end -}}
rayVersion: {{ include "graft.rayVersion" . }}
authOptions: {mode: token}
headGroupSpec:
  rayStartParams: {num-cpus: "0", dashboard-host: 0.0.0.0}
  template:
    metadata:
      labels:
        {{- include "graft.podLabels" . | nindent 8 }}
    spec:
      {{- include "graft.podSpec" .root | nindent 6 }}
      {{- with .priority }}
      priorityClassName: {{ . }}
      {{- end }}
      containers:
        - name: head
          {{- include "graft.container" (merge (dict "env" .env "root" .root) .root.Values.head) | nindent 10 }}
          ports:
            - {name: gcs, containerPort: 6379}
            - {name: dashboard, containerPort: 8265}
            - {name: client, containerPort: 10001}
            - {name: metrics, containerPort: 8080}
            {{- if eq .role "serving" }}
            - {name: serve, containerPort: 8000}
            {{- end }}
      volumes:
        {{- include "graft.volumes" .root | nindent 8 }}
workerGroupSpecs:
  - groupName: {{ $class.name }}
    replicas: {{ .workers }}
    minReplicas: {{ .workers }}
    maxReplicas: {{ .workers }}
    rayStartParams:
      num-cpus: {{ .cpus | quote }}
      {{- with .gpus }}
      num-gpus: {{ . | quote }}
      {{- end }}
    template:
      metadata:
        labels:
          {{- include "graft.podLabels" . | nindent 10 }}
      spec:
        {{- include "graft.podSpec" .root | nindent 8 }}
        {{- with .priority }}
        priorityClassName: {{ . }}
        {{- end }}
        {{- with $class.nodeSelector }}
        nodeSelector:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        {{- with $class.tolerations }}
        tolerations:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        containers:
          - name: worker
            {{- $cpu := include "graft.times" (dict "cpu" $class.cpu "count" .cpus) }}
            {{- include "graft.container" (dict "root" .root "env" .env "cpu" $cpu "memory" $class.memory "gpu" $class.gpu "gpus" .gpus) | nindent 12 }}
              - {name: shm, mountPath: /dev/shm}
            ports:
              - {name: metrics, containerPort: 8080}
              {{- if eq .role "serving" }}
              - {name: serve, containerPort: 8000}
              {{- end }}
        volumes:
          {{- include "graft.volumes" .root | nindent 10 }}
          - {name: shm, emptyDir: {medium: Memory, sizeLimit: {{ $class.sharedMemory }}}}
{{- end }}

{{/* Of Ray in the image; the same as rayjob.py's. */}}
{{- define "graft.rayVersion" -}}
2.60.0
{{- end }}

{{/* Of serving's pods: the fast path, and a replica that does not start is started again and again,
     since there may be no version with the alias yet. */}}
{{- define "graft.serveEnvironment" -}}
RAY_SERVE_ENABLE_HA_PROXY: "1"
RAY_SERVE_THROUGHPUT_OPTIMIZED: "1"
RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT: "2147483647"
{{- end }}
