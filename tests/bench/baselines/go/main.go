// A webhook server in Go, with net/http and amqp091-go: confirmed and persistent.
// PORT, AMQP_URL and HOOKS are variables, as in tornado_aiopika.py.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"
)

const exchange = "events-to-enrich"

type hook struct {
	APIToken   string `json:"apiToken"`
	TenantID   string `json:"tenantId"`
	Datasource string `json:"datasource"`
	Event      string `json:"event"`
	TSField    string `json:"tsField"`
}

type ingest struct {
	hooks   map[string]hook
	channel *amqp.Channel
	// publishing is three frames in a row: one request at a time
	publishing sync.Mutex
}

func (in *ingest) publish(key string, message amqp.Publishing) (*amqp.DeferredConfirmation, error) {
	in.publishing.Lock()
	defer in.publishing.Unlock()
	return in.channel.PublishWithDeferredConfirmWithContext(context.Background(), exchange, key, true, false, message)
}

func (in *ingest) status(request *http.Request) int {
	apiToken, token, _ := strings.Cut(strings.TrimPrefix(request.URL.Path, "/wh/"), "/")
	found, known := in.hooks[token]
	switch {
	case request.Method != http.MethodPost:
		return http.StatusMethodNotAllowed
	case !known || found.APIToken != apiToken:
		return http.StatusNotFound
	case !strings.HasPrefix(request.Header.Get("Content-Type"), "application/json"):
		return http.StatusUnsupportedMediaType
	}
	body, err := io.ReadAll(request.Body)
	if err != nil || !json.Valid(body) {
		return http.StatusBadRequest
	}
	key := fmt.Sprintf("event.%s.%s.%s", found.TenantID, found.Datasource, found.Event)
	confirm, err := in.publish(key, amqp.Publishing{
		Headers:      amqp.Table{"tsField": found.TSField},
		ContentType:  "application/json",
		DeliveryMode: amqp.Persistent,
		Body:         body,
	})
	if err != nil || !confirm.Wait() {
		return http.StatusServiceUnavailable
	}
	return http.StatusNoContent
}

func (in *ingest) ServeHTTP(writer http.ResponseWriter, request *http.Request) {
	writer.WriteHeader(in.status(request))
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	in := &ingest{}
	must(json.Unmarshal([]byte(os.Getenv("HOOKS")), &in.hooks))
	connection, err := amqp.Dial(os.Getenv("AMQP_URL"))
	must(err)
	in.channel, err = connection.Channel()
	must(err)
	must(in.channel.ExchangeDeclare(exchange, "topic", true, false, false, false, nil))
	must(in.channel.Confirm(false))
	must(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), in))
}
