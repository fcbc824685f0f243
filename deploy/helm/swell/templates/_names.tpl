{{/* The release's own prefix. Refused rather than cut: cut names of two releases could be the same. */}}
{{- define "swell.fullname" -}}
{{- $name := ternary .Release.Name (printf "%s-swell" .Release.Name) (contains "swell" .Release.Name) -}}
{{- if gt (len $name) 30 -}}
{{- fail (printf "the release's name %q is too long: names of objects begin with %q, which may have 30 characters" .Release.Name $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* Labels that select the pods of a component. {root, component, pool} */}}
{{- define "swell.selector" -}}
app.kubernetes.io/name: swell
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .pool }}
swell/pool: {{ . }}
{{- end }}
{{- end -}}

{{/* All labels of an object. {root, component, pool} */}}
{{- define "swell.labels" -}}
{{ include "swell.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end -}}

{{/* The image, or that of a pool. {root, own} */}}
{{- define "swell.image" -}}
{{- $image := .root.Values.image -}}
{{- if and .own .own.repository }}{{ $image = .own }}{{ end -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* The address inside of the cluster under which a component is found, and its certificate holds. {root, component} */}}
{{- define "swell.host" -}}
{{ include "swell.fullname" .root }}-{{ .component }}.{{ .root.Release.Namespace }}.svc
{{- end -}}

{{/* The Secret with the certificate of a component. {root, component} */}}
{{- define "swell.tlsSecret" -}}
{{- if eq .root.Values.tls.mode "existing" -}}
{{ get .root.Values.tls.existing .component }}
{{- else -}}
{{ include "swell.fullname" .root }}-tls-{{ .component }}
{{- end -}}
{{- end -}}

{{- define "swell.principalsSecret" -}}
{{- if eq .Values.auth.mode "existing" -}}
{{ .Values.auth.principalsSecret }}
{{- else -}}
{{ include "swell.fullname" . }}-principals
{{- end -}}
{{- end -}}

{{/* The Secret with what a NATS user proves itself with. {root, component, pool} */}}
{{- define "swell.busSecret" -}}
{{- $external := .root.Values.nats.external -}}
{{- if eq .root.Values.nats.mode "trial" -}}
{{ include "swell.fullname" .root }}-bus-{{ .component }}{{ with .pool }}-{{ . }}{{ end }}
{{- else if .pool -}}
{{- get $external.secrets.executors .pool | required (printf "nats.external.secrets.executors.%s: name the Secret of the NATS user swell-executor-%s" .pool .pool) -}}
{{- else -}}
{{ get $external.secrets .component }}
{{- end -}}
{{- end -}}

{{/* The pools, each with all of its values: YAML of a map. */}}
{{- define "swell.pools" -}}
{{- range $name, $own := .Values.pools }}
{{ $name }}:
  {{- mustMergeOverwrite (deepCopy $.Values.poolDefaults) (deepCopy $own) | toYaml | nindent 2 }}
{{- end }}
{{- end -}}
