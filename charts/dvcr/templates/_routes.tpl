{{/*
From outside the cluster to a component's Service: dict "root" . "component" "uploader" "values" .Values.uploader "tls" SECRET,
which is empty where the component speaks plain HTTP.
*/}}
{{- define "dvcr.routes" -}}
{{- $service := printf "%s-%s" (include "dvcr.fullname" .root) .component -}}
{{- $values := .values -}}
{{- if $values.ingress.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {{ $service }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels:
    {{- include "dvcr.labels" . | nindent 4 }}
  annotations:
    {{- /* Layers and files have no largest size, and are passed on as they come. */}}
    {{- $nginx := dict "proxy-body-size" "0" "proxy-request-buffering" "off" "proxy-buffering" "off" }}
    {{- if .tls }}
    {{- $_ := set $nginx "backend-protocol" "HTTPS" }}
    {{- end }}
    {{- $annotations := dict }}
    {{- range $name, $value := $nginx }}
    {{- $_ := set $annotations (printf "nginx.ingress.kubernetes.io/%s" $name) $value }}
    {{- end }}
    {{- merge (dict) ($values.ingress.annotations | default dict) $annotations | toYaml | nindent 4 }}
spec:
  {{- with $values.ingress.className }}
  ingressClassName: {{ . | quote }}
  {{- end }}
  {{- with $values.ingress.tlsSecret }}
  tls:
    - secretName: {{ . | quote }}
      hosts: [{{ $values.ingress.host | quote }}]
  {{- end }}
  rules:
    - host: {{ $values.ingress.host | quote }}
      http:
        paths:
          - path: /
            pathType: Prefix
            backend: {service: {name: {{ $service }}, port: {name: http}}}
{{- end }}
{{- if $values.gateway.enabled }}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: {{ $service }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels:
    {{- include "dvcr.labels" . | nindent 4 }}
spec:
  parentRefs:
    {{- toYaml $values.gateway.parentRefs | nindent 4 }}
  hostnames: [{{ $values.gateway.host | quote }}]
  rules:
    - backendRefs: [{name: {{ $service }}, port: {{ $values.port }}}]
      # Files of any size take any time.
      timeouts: {request: 0s}
{{- end }}
{{- end -}}
