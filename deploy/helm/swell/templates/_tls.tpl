{{/* The components with a certificate: JSON list. */}}
{{- define "swell.certified" -}}
{{- $components := list "scheduler" "ledger" -}}
{{- if eq .Values.nats.mode "trial" }}{{ $components = append $components "nats" }}{{ end -}}
{{- toJson $components -}}
{{- end -}}

{{/* The names in the certificate of a component: JSON list. {root, component} */}}
{{- define "swell.dnsNames" -}}
{{- $name := printf "%s-%s" (include "swell.fullname" .root) .component -}}
{{- $host := include "swell.host" . -}}
{{- $names := list $host $name (printf "%s.%s" $name .root.Release.Namespace) (printf "%s.cluster.local" $host) "localhost" -}}
{{- if eq .component "nats" }}{{ $names = append $names (printf "*.%s" $host) }}{{ end -}}
{{- toJson $names -}}
{{- end -}}
