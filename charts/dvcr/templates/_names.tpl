{{- define "dvcr.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "dvcr.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "dvcr.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "dvcr.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels of an object: of the whole (the root), or of a component (dict "root" . "component" "worker"). */}}
{{- define "dvcr.labels" -}}
{{- $root := default . .root -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{ include "dvcr.selector" . }}
{{- end -}}

{{- define "dvcr.selector" -}}
{{- $root := default . .root -}}
app.kubernetes.io/name: {{ include "dvcr.name" $root | quote }}
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{- define "dvcr.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}

{{- define "dvcr.onS3" -}}
{{- if eq (dig "storage" "driver" "filesystem" .Values.config) "s3" }}true{{ end -}}
{{- end -}}

{{- define "dvcr.accessSecret" -}}
{{- default (printf "%s-access" (include "dvcr.fullname" .)) .Values.access.existingSecret -}}
{{- end -}}

{{- define "dvcr.redisSecret" -}}
{{- if .Values.redis.enabled -}}
{{- printf "%s-redis" (include "dvcr.fullname" .) -}}
{{- else -}}
{{- .Values.redis.external.existingSecret -}}
{{- end -}}
{{- end -}}

{{- define "dvcr.registryTlsSecret" -}}
{{- with .Values.registry.tls -}}
{{- if .certManager.enabled -}}
{{- printf "%s-registry-tls" (include "dvcr.fullname" $) -}}
{{- else -}}
{{- default "" .existingSecret -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "dvcr.registryUrl" -}}
{{- printf "%s://%s-registry.%s.svc:%v" (ternary "https" "http" (ne (include "dvcr.registryTlsSecret" .) "")) (include "dvcr.fullname" .) .Release.Namespace .Values.registry.port -}}
{{- end -}}

{{- define "dvcr.uploaderUrl" -}}
{{- printf "%s://%s-uploader.%s.svc:%v" (ternary "https" "http" (not (empty .Values.uploader.tls.existingSecret))) (include "dvcr.fullname" .) .Release.Namespace .Values.uploader.port -}}
{{- end -}}

{{- define "dvcr.uploaderExternalUrl" -}}
{{- with .Values.uploader -}}
{{- if .externalUrl -}}
{{- .externalUrl -}}
{{- else if .ingress.enabled -}}
{{- printf "%s://%s" (ternary "https" "http" (not (empty .ingress.tlsSecret))) .ingress.host -}}
{{- else if .gateway.enabled -}}
{{- printf "https://%s" .gateway.host -}}
{{- else -}}
{{- include "dvcr.uploaderUrl" $ -}}
{{- end -}}
{{- end -}}
{{- end -}}
