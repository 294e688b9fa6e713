{{/*
What the pods of all components have in common: dict "root" . "component" "worker" "values" .Values.worker; and "settings",
what they read at their start, where those are not DVCR's own.
*/}}
{{- define "dvcr.podTemplateMetadata" -}}
# Not the chart's version: a new one alone is no reason to make pods anew.
labels:
  {{- include "dvcr.selector" . | nindent 2 }}
  {{- with .values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  # The pods are made anew when what they read at their start has changed.
  checksum/config: {{ .settings | default (include "dvcr.settings" .root) | sha256sum }}
  {{- with .values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "dvcr.podSpec" -}}
{{- $values := .values -}}
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
securityContext:
  {{- include "dvcr.podSecurity" (default 10001 .user) | nindent 2 }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
{{- with $values.topologySpreadConstraints }}
  {{- toYaml . | nindent 2 }}
{{- else }}
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "dvcr.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "dvcr.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "dvcr.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* The part of the container that runs `dvcr`, up to its variables, which the caller goes on with. */}}
{{- define "dvcr.container" -}}
image: {{ include "dvcr.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  {{- include "dvcr.containerSecurity" . | nindent 2 }}
resources:
  {{- toYaml .values.resources | nindent 2 }}
{{- end -}}

{{/* The variables that every part has, and those that values add. */}}
{{- define "dvcr.environment" -}}
- {name: DVCR_CONFIG, value: /etc/dvcr/dvcr.toml}
- {name: HOME, value: /tmp}
{{- with .values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* How the parts of the pipeline reach registry and Redis: who they are is .component. */}}
{{- define "dvcr.pipelineEnvironment" -}}
- {name: DVCR__CLIENT__URL, value: {{ include "dvcr.registryUrl" .root | quote }}}
- {name: DVCR__CLIENT__USERNAME, value: {{ .component }}}
- name: DVCR__CLIENT__PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "dvcr.accessSecret" .root | quote }}, key: {{ .component }}}}
{{- if eq (include "dvcr.trustsAuthority" .root) "true" }}
- {name: DVCR__CLIENT__CA_FILE, value: /etc/dvcr-registry-ca/ca.crt}
{{- end }}
- name: DVCR__BROKER__URL
  valueFrom: {secretKeyRef: {name: {{ include "dvcr.redisSecret" .root | quote }}, key: url}}
{{- end -}}

{{- define "dvcr.monitoringEnvironment" -}}
- {name: DVCR__MONITORING__HOST, value: "0.0.0.0"}
- {name: DVCR__MONITORING__PORT, value: {{ .Values.monitoring.port | quote }}}
{{- end -}}

{{- define "dvcr.trustsAuthority" -}}
{{- and (ne (include "dvcr.registryTlsSecret" .) "") (or .Values.registry.tls.hasAuthority .Values.registry.tls.certManager.enabled) -}}
{{- end -}}

{{- define "dvcr.mounts" -}}
- {name: config, mountPath: /etc/dvcr, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- if and .pipeline (eq (include "dvcr.trustsAuthority" .root) "true") }}
- {name: registry-ca, mountPath: /etc/dvcr-registry-ca, readOnly: true}
{{- end }}
{{- with .values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "dvcr.volumes" -}}
- name: config
  configMap: {name: {{ include "dvcr.fullname" .root }}-config}
- name: tmp
  emptyDir: {sizeLimit: 256Mi}
{{- if and .pipeline (eq (include "dvcr.trustsAuthority" .root) "true") }}
- name: registry-ca
  secret:
    secretName: {{ include "dvcr.registryTlsSecret" .root | quote }}
    items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- with .values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "dvcr.httpProbes" -}}
livenessProbe:
  httpGet: {path: /healthz, port: {{ default "http" .port }}, scheme: {{ ternary "HTTPS" "HTTP" .tls }}}
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: {{ default "http" .port }}, scheme: {{ ternary "HTTPS" "HTTP" .tls }}}
  timeoutSeconds: 5
  periodSeconds: 5
{{- end -}}

{{/* SIGTERM comes once Services, ingresses and the API server have heard that the pod is going; the registry sees to it itself. */}}
{{- define "dvcr.servedMeanwhile" -}}
lifecycle:
  preStop: {sleep: {seconds: 5}}
{{- end -}}
