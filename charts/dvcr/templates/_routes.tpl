{{/* From outside the cluster to a component's Service: dict "root" . "component" "uploader" "values" .Values.uploader. */}}
{{- define "dvcr.routes" -}}
{{- $service := printf "%s-%s" (include "dvcr.fullname" .root) .component -}}
{{- $values := .values -}}
{{- if $values.ingress.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {{ $service }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "dvcr.labels" . | nindent 4 }}
  annotations:
    # Layers and files have no largest size, and are passed on as they come.
    nginx.ingress.kubernetes.io/proxy-body-size: "0"
    nginx.ingress.kubernetes.io/proxy-request-buffering: "off"
    nginx.ingress.kubernetes.io/proxy-buffering: "off"
    {{- with $values.ingress.annotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- with $values.ingress.className }}
  ingressClassName: {{ . }}
  {{- end }}
  {{- with $values.ingress.tlsSecret }}
  tls:
    - secretName: {{ . }}
      hosts: [{{ $values.ingress.host | quote }}]
  {{- end }}
  rules:
    - host: {{ required (printf "%s.ingress.host" .component) $values.ingress.host | quote }}
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
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "dvcr.labels" . | nindent 4 }}
spec:
  parentRefs:
    {{- required (printf "%s.gateway.parentRefs" .component) $values.gateway.parentRefs | toYaml | nindent 4 }}
  hostnames: [{{ required (printf "%s.gateway.host" .component) $values.gateway.host | quote }}]
  rules:
    - backendRefs: [{name: {{ $service }}, port: {{ $values.port }}}]
      # Files of any size take any time.
      timeouts: {request: 0s}
{{- end }}
{{- end -}}
