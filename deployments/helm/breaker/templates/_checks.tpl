{{/* Refuse what a schema can't: each message says what is wrong and what to write instead. */}}

{{/* Keys of the configuration that hold secrets. */}}
{{- define "breaker.secretKeys" -}}
redis_url|database_url|ledger_key|key_id|secret_key|client_secret|slack|pagerduty|others|password|sentinel_password
{{- end -}}

{{/* Variables that hold secrets. */}}
{{- define "breaker.secretVariables" -}}
^(BREAKER_REDIS_URL|BREAKER_DATABASE_URL|BREAKER_LEDGER_KEY|BREAKER_ACCOUNTS(__.+__(KEY_ID|SECRET_KEY))?|BREAKER_NOTIFICATIONS(__(SLACK|PAGERDUTY|OTHERS))?|BREAKER_CONSOLE__OIDC(__CLIENT_SECRET)?|PREFECT_API_AUTH_STRING|PREFECT_API_KEY|.*(PASSWORD|TOKEN|SECRET).*)$
{{- end -}}

{{/* Every Secret that is named, by where: "redis.existingSecret" and so on. */}}
{{- define "breaker.namedSecrets" -}}
{{- $named := dict
    "redis.existingSecret" .Values.redis.existingSecret
    "database.existingSecret" .Values.database.existingSecret
    "database.owner.existingSecret" .Values.database.owner.existingSecret
    "ledgerKey.existingSecret" .Values.ledgerKey.existingSecret
    "prefect.authString.existingSecret" .Values.prefect.authString.existingSecret
    "notifications.slack.existingSecret" .Values.notifications.slack.existingSecret
    "notifications.pagerduty.existingSecret" .Values.notifications.pagerduty.existingSecret
    "notifications.others.existingSecret" .Values.notifications.others.existingSecret
    "console.signingKey.existingSecret" .Values.console.signingKey.existingSecret
    "console.tls.existingSecret" .Values.console.tls.existingSecret
    "console.oidc.existingSecret" .Values.console.oidc.existingSecret
-}}
{{- range .Values.accounts -}}
{{- $_ := set $named (printf "accounts, %s: existingSecret" .name) .existingSecret -}}
{{- end -}}
{{- toJson $named -}}
{{- end -}}

{{- define "breaker.check" -}}
{{- range $where, $name := include "breaker.namedSecrets" . | fromJson -}}
{{- if and $name (not (regexMatch `^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$` $name)) -}}
{{- fail (printf "%s is the name of a Secret, such as breaker-redis, and never the secret itself; what is given is no such name" $where) -}}
{{- end -}}
{{- end -}}
{{- if not (regexMatch `^https?://[^\s@]+/api/?$` .Values.prefect.apiUrl) -}}
{{- fail "prefect.apiUrl is the address of Prefect's API: http(s)://HOST:PORT/api. A password does not belong into it: name its Secret under prefect.authString" -}}
{{- end -}}
{{- $configuration := include "breaker.configuration" . -}}
{{- $secret := regexFind (printf `(?m)^[^#\n]*\b(%s)["']?\s*=` (include "breaker.secretKeys" .)) $configuration -}}
{{- if $secret -}}
{{- fail (printf "config: %q would put a secret into a ConfigMap. Name a Secret instead: redis, database, ledgerKey, accounts, notifications, console.oidc" (regexReplaceAll `["'=\s]+$` $secret "" | trim)) -}}
{{- end -}}
{{- if regexMatch `(?m)^\s*(\[\s*)?["']?accounts["']?\s*[.\]=]` $configuration -}}
{{- fail "config: accounts are named under `accounts`, outside of `config`, each with the Secret that has its keys" -}}
{{- end -}}
{{- if regexMatch `(?m)^\s*(\[\s*console\s*\.\s*oidc\b|console\s*\.\s*oidc\b|oidc\b)` $configuration -}}
{{- fail "config: signing in by an identity provider is configured under `console.oidc`, outside of `config`: only the console gets its secret" -}}
{{- end -}}
{{- with regexFind `(?m)^\s*(environment|state_dir)\s*=` $configuration -}}
{{- fail (printf "config: %s is the chart's to set: `environment` is a value of its own, and the state directory is where the volume is" (regexReplaceAll `[=\s]+$` . "" | trim)) -}}
{{- end -}}
{{- range .Values.extraEnv -}}
{{- if and (hasKey . "value") (regexMatch (include "breaker.secretVariables" $) .name) -}}
{{- fail (printf "extraEnv: %s holds a secret: give it by valueFrom.secretKeyRef, not by value" .name) -}}
{{- end -}}
{{- end -}}
{{- $names := list -}}
{{- range .Values.accounts -}}
{{- if has .name $names -}}
{{- fail (printf "accounts: %s is named twice" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- if .Values.console.enabled -}}
{{- if not (or .Values.console.tls.existingSecret .Values.console.trustedProxies) -}}
{{- fail "console: passwords would travel unencrypted. Set console.tls.existingSecret, or console.trustedProxies to the networks of the proxies that end TLS" -}}
{{- end -}}
{{- if and (gt (int .Values.console.replicas) 1) (not .Values.console.signingKey.existingSecret) -}}
{{- fail "console: several replicas need the same key: set console.signingKey.existingSecret, or console.replicas to 1" -}}
{{- end -}}
{{- if and .Values.console.oidc.issuer (not .Values.console.oidc.existingSecret) -}}
{{- fail "console.oidc: set console.oidc.existingSecret to the Secret that has the client's secret" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled .Values.networkPolicy.egress.enabled (not .Values.networkPolicy.egress.rules) -}}
{{- fail "networkPolicy.egress: without rules nothing could reach Redis, PostgreSQL, Prefect or the venues: name them in networkPolicy.egress.rules" -}}
{{- end -}}
{{- if and .Values.workers.enabled (not .Values.services.enabled) -}}
{{- fail "services: workers announce no trips, so that no trip would start its recovery: keep services.enabled with workers.enabled" -}}
{{- end -}}
{{- if and .Values.metrics.serviceMonitor.enabled (not .Values.exporter.enabled) -}}
{{- fail "metrics.serviceMonitor: there is nothing to scrape: set exporter.enabled" -}}
{{- end -}}
{{- end -}}
