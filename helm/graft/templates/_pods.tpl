{{/* What all pods of the chart have in common with those of jobs (platform/graft/cluster/pod_templates.py). */}}

{{/* What all pods of a namespace get, jobs' too: a PodSettings of platform/graft/cluster/profile.py,
     as JSON. */}}
{{- define "graft.podSettings" -}}
{{- $pods := .Values.pods -}}
{{- $env := list -}}
{{- $proxy := $pods.proxy | default dict -}}
{{- /* KubeRay's probes and Ray's own processes ask the pod itself. */ -}}
{{- $except := concat (list "localhost" "127.0.0.1") ($proxy.except | default list) | uniq -}}
{{- range $name, $value := dict "http_proxy" $proxy.http "https_proxy" $proxy.https "no_proxy" (join "," $except) -}}
{{- if and $value (or $proxy.http $proxy.https) -}}
{{- $env = append $env (dict "name" $name "value" $value) -}}
{{- $env = append $env (dict "name" (upper $name) "value" $value) -}}
{{- end -}}
{{- end -}}
{{- $names := list -}}
{{- range $pods.env -}}
{{- if has .name $names -}}
{{- fail (printf "pods.env: '%s' stands twice" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- dict
  "run_as_user" ($pods.runAsUser | empty | ternary nil ($pods.runAsUser | default 0 | int64))
  "labels" $pods.labels
  "annotations" $pods.annotations
  "cpu_limits" $pods.cpuLimits
  "env" (concat $env $pods.env | default list)
  "env_from" $pods.envFrom
  "affinity" $pods.affinity
  "topology_spread_constraints" $pods.topologySpreadConstraints
  "scheduler_name" $pods.schedulerName
  | toJson -}}
{{- end }}

{{/* Takes root; on: what has nodeSelector, tolerations and runtimeClassName; and labels, YAML of
     those that the pods of one job or cluster have in common. */}}
{{- define "graft.podSpec" -}}
{{- $pods := include "graft.podSettings" .root | fromJson -}}
{{- $labels := .labels -}}
serviceAccountName: {{ include "graft.serviceAccount" .root | quote }}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  {{- with $pods.run_as_user }}
  runAsUser: {{ int64 . }}
  runAsGroup: {{ int64 . }}
  fsGroup: {{ int64 . }}
  fsGroupChangePolicy: OnRootMismatch
  {{- end }}
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- with .on.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- with $pods.scheduler_name }}
schedulerName: {{ . | quote }}
{{- end }}
{{- with .on.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .on.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $pods.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $pods.topology_spread_constraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{- merge . (dict "labelSelector" (dict "matchLabels" (fromYaml $labels))) | toYaml | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Labels and annotations of a pod: takes root and role, and of serving's pods workers, how many
     there are of its kind. KubeRay ignores a change of that count where it is, in a RayService; where
     the pods say it, another cluster takes the place of the first. */}}
{{- define "graft.podMetadata" -}}
labels:
  {{- merge (include "graft.podLabels" . | fromYaml) .root.Values.pods.labels | toYaml | nindent 2 }}
{{- $count := dict -}}
{{- if and (eq .role "serving") .workers -}}
{{- $count = dict "graft.dev/pods" (print .workers) -}}
{{- end -}}
{{- with merge $count .root.Values.pods.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Takes root, cpu, memory, and gpu and gpus where it has some, and env, lines of more variables;
     and cache and tmp, their sizes in Gi, where it uses the store. As many GB are a little less. */}}
{{- define "graft.container" -}}
{{- $values := .root.Values -}}
{{- $pods := include "graft.podSettings" .root | fromJson -}}
image: {{ include "graft.image" .root | quote }}
imagePullPolicy: {{ $values.image.pullPolicy }}
env:
  - {name: HOME, value: /tmp}
  - {name: RAY_USAGE_STATS_ENABLED, value: "0"}
  {{- range $pods.env }}
  - {{ toJson . }}
  {{- end }}
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
{{- $secret := and .cache $values.store.secret }}
{{- if or $secret $pods.env_from }}
envFrom:
  {{- range $pods.env_from }}
  - {{ toJson . }}
  {{- end }}
  {{- with $secret }}
  - secretRef: {name: {{ . | quote }}}
  {{- end }}
{{- end }}
{{- $cpu := include "graft.times" (dict "cpu" .cpu "count" 1) }}
resources:
  requests:
    cpu: {{ $cpu | quote }}
    memory: {{ include "graft.canonical" .memory | quote }}
    {{- if .cache }}
    ephemeral-storage: {{ add (trimSuffix "Gi" .cache) (trimSuffix "Gi" .tmp) }}Gi
    {{- end }}
    {{- if .gpus }}
    {{ .gpu }}: {{ .gpus | quote }}
    {{- end }}
  limits:
    {{- if $values.pods.cpuLimits }}
    cpu: {{ $cpu | quote }}
    {{- end }}
    memory: {{ include "graft.canonical" .memory | quote }}
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
  {{- if $values.store.persistentVolumeClaim }}
  - {name: store, mountPath: {{ $values.store.uri | quote }}}
  {{- end }}
  {{- if include "graft.caConfigMap" .root }}
  - {name: ca, mountPath: /etc/graft/ca, readOnly: true}
  {{- end }}
  {{- end }}
{{- end }}

{{/* Takes root, and cache and tmp, their sizes. */}}
{{- define "graft.volumes" -}}
- {name: tmp, emptyDir: {sizeLimit: {{ .tmp }}}}
- {name: cache, emptyDir: {sizeLimit: {{ .cache }}}}
{{- with .root.Values.store.persistentVolumeClaim }}
- {name: store, persistentVolumeClaim: {claimName: {{ . | quote }}}}
{{- end }}
{{- with include "graft.caConfigMap" .root }}
- {name: ca, configMap: {name: {{ . | quote }}}}
{{- end }}
{{- end }}

{{/* Bytes of Ray's object store: three quarters of /dev/shm, as profile.py has it. Takes key, which
     names what has sharedMemory and memory, and these. */}}
{{- define "graft.objectStore" -}}
{{- $shared := include "graft.bytes" .sharedMemory | float64 -}}
{{- if ge $shared (include "graft.bytes" .memory | float64) -}}
{{- fail (printf "%s.sharedMemory: %s is a part of memory, which is %s; expected less" .key .sharedMemory .memory) -}}
{{- end -}}
{{- $bytes := mulf $shared 0.75 | floor -}}
{{- if lt $bytes 78643200.0 -}}
{{- fail (printf "%s.sharedMemory: %s is too little for Ray's objects; expected 100Mi or more" .key .sharedMemory) -}}
{{- end -}}
{{- printf "%.0f" $bytes -}}
{{- end }}

{{/* A group of worker pods, as JSON: a class, with workers, cpus and gpus. Takes root; key and class,
     as values say; workers, cpus and gpus. */}}
{{- define "graft.workerGroup" -}}
{{- $class := include "graft.class" . | fromYaml -}}
{{- if and .gpus (not $class.gpu) -}}
{{- fail (printf "%s: resource class '%s' has no GPUs" .key $class.name) -}}
{{- end -}}
{{- merge (dict "workers" .workers "cpus" .cpus "gpus" .gpus) $class | toJson -}}
{{- end }}

{{/* A RayClusterSpec, less what only serving has. Takes root; role, of its pods; groups, each a
     graft.workerGroup; priority, as values say; env, of all pods. Where there are several groups,
     Ray's nodes have their class as a label. */}}
{{- define "graft.rayClusterSpec" -}}
{{- $head := .root.Values.head -}}
{{- $several := gt (len .groups) 1 -}}
rayVersion: {{ include "graft.rayVersion" . }}
authOptions: {mode: token}
headGroupSpec:
  rayStartParams:
    num-cpus: "0"
    dashboard-host: 0.0.0.0
    object-store-memory: {{ include "graft.objectStore" (merge (dict "key" "head") $head) | quote }}
  template:
    metadata:
      {{- include "graft.podMetadata" . | nindent 6 }}
    spec:
      {{- include "graft.podSpec" (dict "root" .root "on" $head "labels" (include "graft.podLabels" .)) | nindent 6 }}
      terminationGracePeriodSeconds: {{ include "graft.graceSeconds" . }}
      {{- with .priority }}
      priorityClassName: {{ . | quote }}
      {{- end }}
      containers:
        - name: head
          {{- include "graft.container" (merge (dict "env" .env "root" .root) $head) | nindent 10 }}
            - {name: shm, mountPath: /dev/shm}
          ports:
            - {name: gcs, containerPort: 6379}
            - {name: dashboard, containerPort: 8265}
            - {name: client, containerPort: 10001}
            - {name: metrics, containerPort: 8080}
            {{- if eq .role "serving" }}
            - {name: serve, containerPort: 8000}
            {{- end }}
      volumes:
        {{- include "graft.volumes" (merge (dict "root" .root) $head) | nindent 8 }}
        - {name: shm, emptyDir: {medium: Memory, sizeLimit: {{ include "graft.canonical" $head.sharedMemory }}}}
workerGroupSpecs:
{{- range .groups }}
  - groupName: {{ .name | quote }}
    {{- if $several }}
    labels: {graft.dev/class: {{ .name | quote }}}
    {{- end }}
    scaleStrategy: {} # as KubeRay writes it back, see graft.canonical
    replicas: {{ .workers }}
    minReplicas: {{ .workers }}
    maxReplicas: {{ .workers }}
    rayStartParams:
      num-cpus: {{ .cpus | quote }}
      {{- with .gpus }}
      num-gpus: {{ . | quote }}
      {{- end }}
      object-store-memory: {{ include "graft.objectStore" (merge (dict "key" (printf "classes.%s" .name)) .) | quote }}
    template:
      metadata:
        {{- include "graft.podMetadata" (dict "root" $.root "role" $.role "workers" .workers) | nindent 8 }}
      spec:
        {{- include "graft.podSpec" (dict "root" $.root "on" . "labels" (include "graft.podLabels" $)) | nindent 8 }}
        terminationGracePeriodSeconds: {{ include "graft.graceSeconds" $ }}
        {{- with $.priority }}
        priorityClassName: {{ . | quote }}
        {{- end }}
        {{- if and (eq $.role "serving") (not $.root.Values.pods.topologySpreadConstraints) }}
        topologySpreadConstraints:
          - maxSkew: 1
            topologyKey: kubernetes.io/hostname
            whenUnsatisfiable: ScheduleAnyway
            labelSelector:
              matchLabels:
                {{- include "graft.podLabels" $ | nindent 16 }}
                ray.io/node-type: worker
        {{- end }}
        containers:
          - name: worker
            {{- $cpu := include "graft.times" (dict "cpu" .cpu "count" .cpus) }}
            {{- include "graft.container" (merge (dict "root" $.root "env" $.env "cpu" $cpu) .) | nindent 12 }}
              - {name: shm, mountPath: /dev/shm}
              {{- if and (eq $.role "serving") $.root.Values.serving.keysSecret }}
              - {name: keys, mountPath: /etc/graft/keys, readOnly: true}
              {{- end }}
            {{- if eq $.role "serving" }}
            # A pod that ends takes connections until all nodes have learned that it does.
            lifecycle: {preStop: {exec: {command: [sleep, "15"]}}}
            {{- end }}
            ports:
              - {name: metrics, containerPort: 8080}
              {{- if eq $.role "serving" }}
              - {name: serve, containerPort: 8000}
              {{- end }}
        volumes:
          {{- include "graft.volumes" (merge (dict "root" $.root) .) | nindent 10 }}
          {{- if and (eq $.role "serving") $.root.Values.serving.keysSecret }}
          - {name: keys, secret: {secretName: {{ $.root.Values.serving.keysSecret | quote }}}}
          {{- end }}
          - {name: shm, emptyDir: {medium: Memory, sizeLimit: {{ include "graft.canonical" .sharedMemory }}}}
{{- end }}
{{- end }}

{{/* After which a pod that is told to end is killed; takes role. Kubernetes' own 30 would cut short what
     Ray takes to drain, 30 by default, and 80 in pods of serving, after their 15 of preStop: a
     replica is reachable for 30 more, in which all proxies learn that it goes, and its last answers
     take up to 40. */}}
{{- define "graft.graceSeconds" -}}
{{- eq .role "serving" | ternary 115 60 -}}
{{- end }}

{{/* Of Ray in the image; the same as rayjob_manifest.py's. */}}
{{- define "graft.rayVersion" -}}
2.60.0
{{- end }}

{{/* Of serving's pods: the fast path; HAProxy with no more threads than the pod has CPUs, which it
     shares with a replica, and as graft-haproxy changes it, which the image has; and a replica that
     does not start is started again and again, since there may be no version with the alias yet.
     Takes serving's values. */}}
{{- define "graft.serveEnvironment" -}}
# torch's threads sleep while they have no work: those that spin take a shared node's CPUs.
OMP_WAIT_POLICY: PASSIVE
RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S: "80"
RAY_SERVE_ENABLE_HA_PROXY: "1"
RAY_SERVE_HAPROXY_BINARY_PATH: /opt/graft/bin/graft-haproxy
RAY_SERVE_THROUGHPUT_OPTIMIZED: "1"
RAY_SERVE_HAPROXY_NBTHREAD: {{ .cpusPerReplica | quote }}
RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT: "2147483647"
{{- end }}
