{{/* What every pod of the release has in common. */}}

{{/* A user without rights. Not configurable: the image has this user, and nothing needs more. */}}
{{- define "breaker.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "breaker.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* One variable from a Secret: (dict "name" "BREAKER_REDIS_URL" "secret" "breaker-redis" "key" "url"). */}}
{{- define "breaker.secretVariable" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ .key | quote }}
{{- end -}}

{{/* What every process of ours reads, and writes to. */}}
{{- define "breaker.baseEnv" -}}
- name: BREAKER_CONFIG
  value: /etc/breaker/breaker.toml
- name: BREAKER_STATE_DIR
  value: /var/lib/breaker
- name: PREFECT_HOME
  value: /var/lib/breaker/prefect
{{- with .Values.environment }}
- name: BREAKER_ENVIRONMENT
  value: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "breaker.storesEnv" -}}
{{ include "breaker.secretVariable" (dict "name" "BREAKER_REDIS_URL" "secret" .Values.redis.existingSecret "key" .Values.redis.key) }}
{{ include "breaker.secretVariable" (dict "name" "BREAKER_DATABASE_URL" "secret" .Values.database.existingSecret "key" .Values.database.key) }}
{{- with .Values.ledgerKey }}
{{- if .existingSecret }}
{{ include "breaker.secretVariable" (dict "name" "BREAKER_LEDGER_KEY" "secret" .existingSecret "key" .key) }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "breaker.prefectEnv" -}}
- name: PREFECT_API_URL
  value: {{ .Values.prefect.apiUrl | quote }}
{{- with .Values.prefect.authString }}
{{- if .existingSecret }}
{{ include "breaker.secretVariable" (dict "name" "PREFECT_API_AUTH_STRING" "secret" .existingSecret "key" .key) }}
{{- end }}
{{- end }}
- name: PREFECT_SERVER_ANALYTICS_ENABLED
  value: "false"
- name: DO_NOT_TRACK
  value: "1"
{{- end -}}

{{/* Of what acts at the venues and tells people. */}}
{{- define "breaker.actingEnv" -}}
{{- range .Values.accounts }}
{{- $prefix := printf "BREAKER_ACCOUNTS__%s__" .name }}
- name: {{ $prefix }}BASE_URL
  value: {{ .baseUrl | quote }}
{{ include "breaker.secretVariable" (dict "name" (print $prefix "KEY_ID") "secret" .existingSecret "key" (.keyIdKey | default "key_id")) }}
{{ include "breaker.secretVariable" (dict "name" (print $prefix "SECRET_KEY") "secret" .existingSecret "key" (.secretKeyKey | default "secret_key")) }}
{{- with .adapter }}
- name: {{ $prefix }}ADAPTER
  value: {{ . | quote }}
{{- end }}
{{- with .requestTimeout }}
- name: {{ $prefix }}REQUEST_TIMEOUT
  value: {{ . | toString | quote }}
{{- end }}
{{- with .requestsPerMinute }}
- name: {{ $prefix }}REQUESTS_PER_MINUTE
  value: {{ . | int | toString | quote }}
{{- end }}
{{- end }}
{{- range $channel, $from := .Values.notifications }}
{{- if $from.existingSecret }}
{{ include "breaker.secretVariable" (dict "name" (printf "BREAKER_NOTIFICATIONS__%s" (upper $channel)) "secret" $from.existingSecret "key" $from.key) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Where things are written: the root file system can't be. */}}
{{- define "breaker.mounts" -}}
- name: configuration
  mountPath: /etc/breaker
  readOnly: true
- name: state
  mountPath: /var/lib/breaker
- name: temporary
  mountPath: /tmp
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "breaker.volumes" -}}
- name: configuration
  configMap:
    name: {{ include "breaker.fullname" . }}
- name: temporary
  emptyDir:
    sizeLimit: 256Mi
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/*
A component that stays: a Deployment, or a StatefulSet where its state is to outlive the pod.
(dict "root" $ "component" "console" "values" .Values.console "args" (list …) "acting" true
      "env" "…" "ports" "…" "probes" "…" "mounts" "…" "volumes" "…")
*/}}
{{- define "breaker.workload" -}}
{{- $root := .root -}}
{{- $values := .values -}}
{{- $name := printf "%s-%s" (include "breaker.fullname" $root) .component -}}
{{- $persistent := $values.state.persistent -}}
apiVersion: apps/v1
kind: {{ $persistent | ternary "StatefulSet" "Deployment" }}
metadata:
  name: {{ $name }}
  labels: {{- include "breaker.labels" . | nindent 4 }}
spec:
  replicas: {{ int $values.replicas }}
  {{- if $persistent }}
  serviceName: {{ $name }}-pods
  # None depends on another.
  podManagementPolicy: Parallel
  persistentVolumeClaimRetentionPolicy:
    whenDeleted: Retain
    whenScaled: Retain
  {{- else }}
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxUnavailable: 0
      maxSurge: 1
  {{- end }}
  selector:
    matchLabels: {{- include "breaker.selectorLabels" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "breaker.selectorLabels" . | nindent 8 }}
        {{- with $values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        # A process reads the configuration once: a changed one restarts it.
        checksum/configuration: {{ include "breaker.configuration" $root | sha256sum }}
        {{- with $values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ include "breaker.fullname" $root }}
      automountServiceAccountToken: false
      # Kubernetes would add BREAKER_… variables of its own, made of the names of Services.
      enableServiceLinks: false
      {{- with $root.Values.image.pullSecrets }}
      imagePullSecrets: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      terminationGracePeriodSeconds: {{ int $values.terminationGracePeriodSeconds }}
      securityContext: {{- include "breaker.podSecurity" $root | nindent 8 }}
      containers:
        - name: {{ .component }}
          image: {{ include "breaker.image" $root }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          args: {{- toYaml .args | nindent 12 }}
          env:
            {{- include "breaker.baseEnv" $root | nindent 12 }}
            {{- include "breaker.storesEnv" $root | nindent 12 }}
            {{- if .acting }}
            {{- if $root.Values.exporter.enabled }}
            # Where `breaker doctor` looks for the exporter.
            - name: BREAKER_CONSOLE__METRICS_HOST
              value: {{ include "breaker.fullname" $root }}-exporter
            {{- end }}
            {{- include "breaker.prefectEnv" $root | nindent 12 }}
            {{- with include "breaker.actingEnv" $root | trim }}
            {{- . | nindent 12 }}
            {{- end }}
            {{- end }}
            {{- with .env }}
            {{- . | nindent 12 }}
            {{- end }}
            {{- with $root.Values.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          {{- with .ports }}
          ports: {{- . | nindent 12 }}
          {{- end }}
          {{- .probes | trim | nindent 10 }}
          resources: {{- toYaml $values.resources | nindent 12 }}
          securityContext: {{- include "breaker.containerSecurity" $root | nindent 12 }}
          volumeMounts:
            {{- include "breaker.mounts" $root | nindent 12 }}
            {{- with .mounts }}
            {{- . | nindent 12 }}
            {{- end }}
      volumes:
        {{- include "breaker.volumes" $root | nindent 8 }}
        {{- if not $persistent }}
        - name: state
          emptyDir:
            sizeLimit: {{ $values.state.size }}
        {{- end }}
        {{- with .volumes }}
        {{- . | nindent 8 }}
        {{- end }}
      topologySpreadConstraints:
        - topologyKey: kubernetes.io/hostname
          maxSkew: 1
          whenUnsatisfiable: {{ $values.spread }}
          labelSelector:
            matchLabels: {{- include "breaker.selectorLabels" . | nindent 14 }}
      {{- with $values.nodeSelector }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.tolerations }}
      tolerations: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.affinity }}
      affinity: {{- toYaml . | nindent 8 }}
      {{- end }}
  {{- if $persistent }}
  volumeClaimTemplates:
    - metadata:
        name: state
        labels: {{- include "breaker.selectorLabels" . | nindent 10 }}
      spec:
        accessModes: [ReadWriteOnce]
        {{- with $values.state.storageClass }}
        storageClassName: {{ . }}
        {{- end }}
        resources:
          requests:
            storage: {{ $values.state.size }}
---
# A StatefulSet has to have one; it leads nowhere.
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}-pods
  labels: {{- include "breaker.labels" . | nindent 4 }}
spec:
  clusterIP: None
  selector: {{- include "breaker.selectorLabels" . | nindent 4 }}
  {{- end }}
{{- if gt (int $values.replicas) 1 }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $name }}
  labels: {{- include "breaker.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  # Pods that aren't ready because Redis is away don't keep a node from being drained.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{- include "breaker.selectorLabels" . | nindent 6 }}
{{- end }}
{{- end -}}

{{/* A Job that Helm runs: its pod's specification. (dict "root" $ "component" "migrate" "env" "…" "args" (list …)) */}}
{{- define "breaker.jobPod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
restartPolicy: Never
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext: {{- include "breaker.podSecurity" .root | nindent 2 }}
containers:
  - name: {{ .component }}
    image: {{ include "breaker.image" .root }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    args: {{- toYaml .args | nindent 6 }}
    env:
      {{- .env | nindent 6 }}
      {{- with .root.Values.extraEnv }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    resources: {{- toYaml .root.Values.jobs.resources | nindent 6 }}
    securityContext: {{- include "breaker.containerSecurity" .root | nindent 6 }}
    volumeMounts:
      - name: state
        mountPath: /var/lib/breaker
      - name: temporary
        mountPath: /tmp
      {{- with .root.Values.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
volumes:
  - name: state
    emptyDir: {}
  - name: temporary
    emptyDir: {}
  {{- with .root.Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .root.Values.jobs.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.jobs.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
