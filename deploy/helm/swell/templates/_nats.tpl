{{/* The users of our NATS servers: JSON list of {user, variable, secret, permissions}. */}}
{{- define "swell.natsUsers" -}}
{{- $users := list -}}
{{- $permissions := .Files.Get "files/nats-permissions.json" -}}
{{- range $component := list "scheduler" "ledger" -}}
{{- $own := get ($permissions | fromJson) (printf "swell-%s" $component) -}}
{{- $users = append $users (dict "user" (printf "swell-%s" $component) "variable" (printf "SWELL_%s_PASSWORD" (upper $component)) "secret" (include "swell.busSecret" (dict "root" $ "component" $component)) "permissions" $own) -}}
{{- end -}}
{{- range $pool := keys .Values.pools | sortAlpha -}}
{{- $own := get ($permissions | replace "POOL" $pool | fromJson) (printf "swell-executor-%s" $pool) -}}
{{- $users = append $users (dict "user" (printf "swell-executor-%s" $pool) "variable" (printf "SWELL_EXECUTOR_%s_PASSWORD" (upper $pool | replace "-" "_")) "secret" (include "swell.busSecret" (dict "root" $ "component" "executor" "pool" $pool)) "permissions" $own) -}}
{{- end -}}
{{- toJson $users -}}
{{- end -}}

{{/* The data of the ConfigMap of our NATS servers. {root, values} */}}
{{- define "swell.natsConfig" -}}
{{- $host := include "swell.host" (dict "root" .root "component" "nats") -}}
{{- $full := include "swell.fullname" .root -}}
nats.conf: |
  server_name: $POD_NAME
  listen: 0.0.0.0:4222
  http: 0.0.0.0:8222
  pid_file: /tmp/nats.pid
  max_payload: 8MB
  lame_duck_duration: 30s
  lame_duck_grace_period: 5s
  jetstream {
    store_dir: /var/lib/swell/nats
    sync_interval: always
    max_memory_store: {{ .values.memory }}
    max_file_store: {{ .values.storage.size }}
  }
  tls {
    cert_file: /etc/swell-tls/tls.crt
    key_file: /etc/swell-tls/tls.key
    timeout: 5
  }
  {{- if gt (int .values.nodes) 1 }}
  cluster {
    name: {{ $full }}
    listen: 0.0.0.0:6222
    no_advertise: true
    tls {
      cert_file: /etc/swell-tls/tls.crt
      key_file: /etc/swell-tls/tls.key
      ca_file: /etc/swell-tls/ca.crt
      verify: true
      timeout: 5
    }
    routes: [
      {{- range $i := until (int .values.nodes) }}
      nats-route://{{ $full }}-nats-{{ $i }}.{{ $host }}:6222
      {{- end }}
    ]
  }
  {{- end }}
  authorization {
    timeout: 5
    users: [
      {{- range include "swell.natsUsers" .root | fromJsonArray }}
      { user: {{ .user }}, password: ${{ .variable }}, permissions: {{ toRawJson .permissions }} }
      {{- end }}
    ]
  }
{{- end -}}
