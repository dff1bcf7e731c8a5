{{- define "mesh.labels" -}}
app.kubernetes.io/name: inference-mesh
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* Where etcd is: its members one by one, so that a client goes to the next one when one is away. */}}
{{- define "mesh.etcd" -}}
{{- if .Values.etcd.enabled -}}
{{- $root := . -}}
{{- range $index := until (int .Values.etcd.replicas) -}}
{{- if $index }},{{ end -}}
http://{{ $root.Release.Name }}-etcd-{{ $index }}.{{ $root.Release.Name }}-etcd:2379
{{- end -}}
{{- else -}}
{{ .Values.etcd.url }}
{{- end -}}
{{- end }}

{{- define "mesh.pod" -}}
# Else the Service of the gateways would set MESH_GATEWAY_PORT=tcp://..., which is a setting of ours.
enableServiceLinks: false
{{- with .Values.images.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "mesh.container" -}}
imagePullPolicy: {{ .Values.images.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}
