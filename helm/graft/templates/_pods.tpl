{{/* What all pods of the chart have in common with those of jobs (platform/graft/cluster/rayjob.py). */}}

{{/* Takes root, and on: what has nodeSelector and tolerations. */}}
{{- define "graft.podSpec" -}}
serviceAccountName: {{ include "graft.name" .root }}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .on.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .on.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Takes root, cpu, memory, and gpu and gpus where it has some, and env, lines of more variables;
     and cache, its size in Gi, where it uses the store. As many GB are a little less. */}}
{{- define "graft.container" -}}
{{- $values := .root.Values -}}
image: {{ include "graft.image" .root }}
imagePullPolicy: {{ $values.image.pullPolicy }}
env:
  - {name: HOME, value: /tmp}
  - {name: RAY_USAGE_STATS_ENABLED, value: "0"}
  {{- if .cache }}
  - {name: GRAFT_STORE, value: {{ $values.store.uri | quote }}}
  - {name: GRAFT_CACHE, value: /cache}
  - {name: GRAFT_CACHE_GB, value: {{ trimSuffix "Gi" .cache | quote }}}
  {{- with $values.store.endpoint }}
  - {name: AWS_ENDPOINT_URL, value: {{ . | quote }}}
  {{- end }}
  {{- if include "graft.caConfigMap" .root }}
  - {name: AWS_CA_BUNDLE, value: /etc/graft/ca/ca.crt}
  {{- end }}
  {{- end }}
  {{- range $name, $value := .env }}
  - {name: {{ $name }}, value: {{ $value | quote }}}
  {{- end }}
{{- if and .cache $values.store.secret }}
envFrom:
  - secretRef: {name: {{ $values.store.secret }}}
{{- end }}
resources:
  requests:
    cpu: {{ .cpu | quote }}
    memory: {{ .memory | quote }}
    {{- with .cache }}
    ephemeral-storage: {{ . }}
    {{- end }}
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
  {{- if .cache }}
  - {name: cache, mountPath: /cache}
  {{- if include "graft.caConfigMap" .root }}
  - {name: ca, mountPath: /etc/graft/ca, readOnly: true}
  {{- end }}
  {{- end }}
{{- end }}

{{/* Takes root, and cache, its size. */}}
{{- define "graft.volumes" -}}
- {name: tmp, emptyDir: {}}
- {name: cache, emptyDir: {sizeLimit: {{ .cache }}}}
{{- with include "graft.caConfigMap" .root }}
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
      {{- include "graft.podSpec" (dict "root" .root "on" .root.Values.head) | nindent 6 }}
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
        {{- include "graft.volumes" (dict "root" .root "cache" .root.Values.head.cache) | nindent 8 }}
workerGroupSpecs:
  - groupName: {{ $class.name | quote }}
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
        {{- include "graft.podSpec" (dict "root" .root "on" $class) | nindent 8 }}
        {{- with .priority }}
        priorityClassName: {{ . }}
        {{- end }}
        {{- if eq .role "serving" }}
        topologySpreadConstraints:
          - maxSkew: 1
            topologyKey: kubernetes.io/hostname
            whenUnsatisfiable: ScheduleAnyway
            labelSelector:
              matchLabels:
                {{- include "graft.podLabels" . | nindent 16 }}
                ray.io/node-type: worker
        {{- end }}
        containers:
          - name: worker
            {{- $cpu := include "graft.times" (dict "cpu" $class.cpu "count" .cpus) }}
            {{- include "graft.container" (dict "root" .root "env" .env "cpu" $cpu "memory" $class.memory "cache" $class.cache "gpu" $class.gpu "gpus" .gpus) | nindent 12 }}
              - {name: shm, mountPath: /dev/shm}
            ports:
              - {name: metrics, containerPort: 8080}
              {{- if eq .role "serving" }}
              - {name: serve, containerPort: 8000}
              {{- end }}
        volumes:
          {{- include "graft.volumes" (dict "root" .root "cache" $class.cache) | nindent 10 }}
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
