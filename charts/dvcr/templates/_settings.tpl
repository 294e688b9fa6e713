{{/*
The settings of all parts, as TOML. To the rules of values the chart adds those by which its own parts work: they have
the repositories of DVCR's images, and the worker finds chunks in all others too; everyone else has what values grant.
Images can be fetched from the chart's own registry, whether it has TLS or not.
*/}}
{{- define "dvcr.settings" -}}
{{- $own := dict "repositories" (list "cvmi/**" "vmi/**" "vmd/**") "users" (list "controller" "worker" "uploader") "actions" (list "pull" "push" "delete") -}}
{{- $anywhere := dict "repositories" (list "**") "users" (list "worker") "actions" (list "pull") -}}
{{- $config := deepCopy .Values.config -}}
{{- $access := get $config "access" | default dict -}}
{{- $rules := concat (list $own $anywhere) (get $access "rules" | default list) -}}
{{- $_ := set $access "rules" $rules -}}
{{- $_ := set $config "access" $access -}}
{{- if not (include "dvcr.registryTlsSecret" .) -}}
{{- $importer := get $config "importer" | default dict -}}
{{- $plain := list (include "dvcr.registryUrl" . | trimPrefix "http://") -}}
{{- $_ := set $importer "plain_http_registries" (concat $plain (get $importer "plain_http_registries" | default list)) -}}
{{- $_ := set $config "importer" $importer -}}
{{- end -}}
{{- toToml $config -}}
{{- end -}}
