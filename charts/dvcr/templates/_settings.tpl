{{/*
The settings of all parts, as TOML. To the rules of values the chart adds the one by which its own parts work: the
controller's machines read images and write those that are made of disks; everyone else has what values grant.
*/}}
{{- define "dvcr.settings" -}}
{{- $pipeline := dict "repositories" (list "**") "users" (list "controller" "worker" "uploader") "actions" (list "pull" "push" "delete") -}}
{{- $config := deepCopy .Values.config -}}
{{- $access := get $config "access" | default dict -}}
{{- $rules := prepend (get $access "rules" | default list) $pipeline -}}
{{- $_ := set $access "rules" $rules -}}
{{- $_ := set $config "access" $access -}}
{{- toToml $config -}}
{{- end -}}
