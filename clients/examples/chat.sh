#!/bin/sh
# The models, and a streamed answer: each line "data: " holds a piece of it.
set -eu
url=${OPENAI_BASE_URL:-http://127.0.0.1:8000/v1}
curl --silent --show-error --fail "$url/models"
curl --silent --show-error --fail --no-buffer "$url/chat/completions" \
  --header "content-type: application/json" --header "authorization: Bearer ${OPENAI_API_KEY:-none}" \
  --data "{\"model\": \"${MODEL:-mesh-demo}\", \"stream\": true, \"max_tokens\": 50,
           \"messages\": [{\"role\": \"user\", \"content\": \"Tell me a story about a fox.\"}]}"
