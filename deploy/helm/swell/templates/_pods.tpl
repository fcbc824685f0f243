{{/* What every pod has. {root, component, pool, values, grace_s} */}}
{{- define "swell.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false  # variables such as SWELL_SCHEDULER_PORT would be read as settings
terminationGracePeriodSeconds: {{ .grace_s }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    {{- include "swell.seccomp" .values | nindent 4 }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "swell.selector" $ | nindent 8 }}
  {{- end }}
{{- end -}}

{{/* The seccomp profile for values that may have a sandbox. */}}
{{- define "swell.seccomp" -}}
{{- if .seccompProfile -}}
type: Localhost
localhostProfile: {{ .seccompProfile }}
{{- else if eq (.sandbox | default "none") "userNamespaces" -}}
type: Unconfined
{{- else -}}
type: RuntimeDefault
{{- end -}}
{{- end -}}

{{- define "swell.container" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Volumes and mounts of a component's settings and secrets. {root, component, pool, values, name} */}}
{{- define "swell.volumes" -}}
- name: config
  configMap:
    name: {{ .name }}
- name: tmp
  emptyDir:
    sizeLimit: 1Gi
- name: bus
  projected:
    defaultMode: 0440
    sources:
      - secret:
          name: {{ include "swell.busSecret" . }}
          items:
            {{- $key := and (eq .root.Values.nats.mode "external") (eq .root.Values.nats.external.credentials "creds") | ternary "nats.creds" "password" }}
            - {key: {{ $key }}, path: {{ $key }}}
      {{- if eq .root.Values.nats.mode "trial" }}
      - secret:
          name: {{ include "swell.tlsSecret" (dict "root" .root "component" "nats") }}
          items:
            - {key: ca.crt, path: ca.crt}
      {{- else if .root.Values.nats.external.caSecret }}
      - secret:
          name: {{ .root.Values.nats.external.caSecret }}
          items:
            - {key: ca.crt, path: ca.crt}
      {{- end }}
{{- range $i, $one := .values.secrets }}
- name: secret-{{ $i }}
  secret:
    secretName: {{ $one.secret }}
    defaultMode: 0440
{{- end }}
{{- end -}}

{{- define "swell.mounts" -}}
- {name: config, mountPath: /etc/swell, readOnly: true}
- {name: tmp, mountPath: /tmp}
- {name: bus, mountPath: /etc/swell-bus, readOnly: true}
{{- range $i, $one := .values.secrets }}
- {name: secret-{{ $i }}, mountPath: {{ $one.path }}, readOnly: true}
{{- end }}
{{- end -}}

{{- define "swell.guardVolumes" -}}
- name: tls
  secret:
    secretName: {{ include "swell.tlsSecret" . }}
    defaultMode: 0440
{{- with include "swell.principalsSecret" .root }}
- name: auth
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items:
      - {key: principals.json, path: principals.json}
{{- end }}
{{- end -}}

{{- define "swell.guardMounts" -}}
- {name: tls, mountPath: /etc/swell-tls, readOnly: true}
{{- if include "swell.principalsSecret" .root }}
- {name: auth, mountPath: /etc/swell-auth, readOnly: true}
{{- end }}
{{- end -}}

{{/* The variables of a service: its name, and those of its values. {component, values} */}}
{{- define "swell.env" -}}
{{- if .named }}
- name: SWELL_{{ upper .component }}_ID
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
{{- end }}
{{- range $name, $value := .values.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{/* The command that asks a server for its health. {root, component, port, host} */}}
{{- define "swell.probe" -}}
- python
- -m
- services.probe
- {{ .host }}:{{ .port }}
- --ca-file=/etc/swell-tls/ca.crt
- --tls-name={{ include "swell.host" . }}
{{- if eq .root.Values.tls.clientCertificates "required" }}
- --certificate-file=/etc/swell-tls/tls.crt
- --key-file=/etc/swell-tls/tls.key
{{- end }}
{{- end -}}

{{/* Probes of a server: it has to answer to live, and to serve to be called. {root, component, port, start_s} */}}
{{- define "swell.serverProbes" -}}
{{- $probe := include "swell.probe" (merge (dict "host" "127.0.0.1") .) -}}
startupProbe:
  exec:
    command:
      {{- $probe | nindent 6 }}
      - --alive
  periodSeconds: 3
  timeoutSeconds: 10
  failureThreshold: {{ div .start_s 3 }}
readinessProbe:
  exec:
    command:
      {{- $probe | nindent 6 }}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 2
livenessProbe:
  exec:
    command:
      {{- $probe | nindent 6 }}
      - --alive
  periodSeconds: 30
  timeoutSeconds: 10
  failureThreshold: 4
{{- end -}}

{{/* What a volume is asked for with. */}}
{{- define "swell.claim" -}}
accessModes: [ReadWriteOnce]
{{- with .className }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests:
    storage: {{ .size }}
{{- end -}}

{{/* How long an executor's pod may take to end: its steps' grace, keeping their work, handing back, and a margin, seconds. */}}
{{- define "swell.executorGrace" -}}
{{- add 30 (ceil (.settings.stop_grace_s | default 25)) (ceil (.settings.keep_work_timeout_s | default 30)) -}}
{{- end -}}
