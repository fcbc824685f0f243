{{/* A table as TOML, values before tables, whatever follows below `at`. {table, at} */}}
{{- define "swell.toml" -}}
{{- $at := .at -}}
{{- $table := .table -}}
{{- range $key := keys $table | sortAlpha }}
{{- $value := get $table $key }}
{{- if not (kindIs "map" $value) }}
{{ include "swell.tomlKey" $key }} = {{ toRawJson $value }}
{{- end }}
{{- end }}
{{- range $key := keys $table | sortAlpha }}
{{- $value := get $table $key }}
{{- if kindIs "map" $value }}

[{{ $at }}{{ include "swell.tomlKey" $key }}]
{{- include "swell.toml" (dict "table" $value "at" (printf "%s%s." $at (include "swell.tomlKey" $key))) }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "swell.tomlKey" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . }}{{ . }}{{ else }}{{ toJson . }}{{ end -}}
{{- end -}}

{{/* The [bus] of a component, as JSON. {root, component, pool} */}}
{{- define "swell.bus" -}}
{{- $nats := .root.Values.nats -}}
{{- $bus := dict "user" (printf "swell-%s%s" .component (empty .pool | ternary "" (printf "-%s" .pool))) -}}
{{- if eq $nats.mode "trial" -}}
{{- $full := include "swell.fullname" .root -}}
{{- $urls := list -}}
{{- range $i := until (int $nats.trial.nodes) -}}
{{- $urls = append $urls (printf "tls://%s-nats-%d.%s:4222" $full $i (include "swell.host" (dict "root" $.root "component" "nats"))) -}}
{{- end -}}
{{- $_ := set $bus "url" (join "," $urls) -}}
{{- $_ := set $bus "replicas" $nats.trial.nodes -}}
{{- $_ := set $bus "synced" true -}}
{{- $_ := set $bus "password_file" "/etc/swell-bus/password" -}}
{{- $_ := set $bus "ca_file" "/etc/swell-bus/ca.crt" -}}
{{- else -}}
{{- $_ := set $bus "url" $nats.external.url -}}
{{- $_ := set $bus "replicas" $nats.external.replicas -}}
{{- $_ := set $bus "synced" $nats.external.synced -}}
{{- if eq $nats.external.credentials "creds" -}}
{{- $_ := set $bus "credentials_file" "/etc/swell-bus/nats.creds" -}}
{{- else -}}
{{- $_ := set $bus "password_file" "/etc/swell-bus/password" -}}
{{- end -}}
{{- if $nats.external.caSecret -}}{{- $_ := set $bus "ca_file" "/etc/swell-bus/ca.crt" -}}{{- end -}}
{{- if $nats.external.tlsName -}}{{- $_ := set $bus "tls_name" $nats.external.tlsName -}}{{- end -}}
{{- end -}}
{{- toJson $bus -}}
{{- end -}}

{{/* [tls] and [auth] of a server, as JSON. */}}
{{- define "swell.guard" -}}
{{- $tls := dict "certificate_file" "/etc/swell-tls/tls.crt" "key_file" "/etc/swell-tls/tls.key" -}}
{{- if eq .Values.tls.clientCertificates "required" -}}
{{- $_ := set $tls "client_ca_file" "/etc/swell-tls/ca.crt" -}}
{{- $_ := set $tls "require_client_certificate" true -}}
{{- end -}}
{{- $auth := deepCopy .Values.auth.limits -}}
{{- if include "swell.principalsSecret" . -}}
{{- $_ := set $auth "principals_file" "/etc/swell-auth/principals.json" -}}
{{- end -}}
{{- with .Values.auth.oidc -}}
{{- if .issuer -}}
{{- $_ := set $auth "oidc" (dict "issuer" .issuer "audience" .audience "keys_url" .keysUrl "name_claim" .nameClaim "role_claim" .roleClaim "tenants_claim" .tenantsClaim) -}}
{{- end -}}
{{- end -}}
{{- dict "tls" $tls "auth" $auth | toJson -}}
{{- end -}}

{{/* The data of the ConfigMap of a component: its TOML, and the files of its values. {root, component, pool, values} */}}
{{- define "swell.config" -}}
{{- $set := dict "bus" (include "swell.bus" . | fromJson) "metrics_plaintext" true -}}
{{- if eq .component "executor" -}}
{{- $hidden := concat (list "/etc/swell-bus") (.values.settings.sandbox_hidden | default list) -}}
{{- $set = mustMerge $set (dict "state_dir" "/var/lib/swell/executor" "ready_file" "/var/lib/swell/ready" "pool" .pool "slots" .values.slots "metrics_address" "0.0.0.0:9402" "sandbox_hidden" $hidden) -}}
{{- else -}}
{{- $set = mustMerge $set (include "swell.guard" .root | fromJson) -}}
{{- if eq .component "scheduler" -}}
{{- $set = mustMerge $set (dict "bind" "0.0.0.0:7400" "metrics_address" "0.0.0.0:9400") -}}
{{- else -}}
{{- $set = mustMerge $set (dict "bind" "0.0.0.0:7401" "metrics_address" "0.0.0.0:9401" "file" "/var/lib/swell/ledger.duckdb") -}}
{{- end -}}
{{- end -}}
{{ .component }}.toml: |
  {{- include "swell.toml" (dict "table" (mustMergeOverwrite (deepCopy .values.settings) $set) "at" "") | trim | nindent 2 }}
{{- range $name, $content := .values.files }}
{{ $name }}: {{ toJson $content }}
{{- end }}
{{- end -}}
