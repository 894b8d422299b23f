// The rival of `./dev bench gateway`: grpc-gateway as its documentation shows it, TLS outside, mutual TLS to the service.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"log"
	"net/http"
	"os"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"bench/benchpb"
)

func main() {
	listen := flag.String("listen", "", "address:port")
	upstream := flag.String("upstream", "", "address:port of the service")
	edge := flag.String("edge", "", "certificate and key to show outside, without their endings")
	identity := flag.String("identity", "", "certificate and key to show the service, without their endings")
	bundle := flag.String("bundle", "", "the authority of both")
	flag.Parse()

	roots := x509.NewCertPool()
	pem, err := os.ReadFile(*bundle)
	if err != nil || !roots.AppendCertsFromPEM(pem) {
		log.Fatalf("no authority in %s: %v", *bundle, err)
	}
	own, err := tls.LoadX509KeyPair(*identity+".pem", *identity+"-key.pem")
	if err != nil {
		log.Fatal(err)
	}
	inside := credentials.NewTLS(&tls.Config{
		RootCAs: roots, Certificates: []tls.Certificate{own}, ServerName: "localhost", MinVersion: tls.VersionTLS13,
	})
	mux := runtime.NewServeMux()
	options := []grpc.DialOption{grpc.WithTransportCredentials(inside)}
	if err := benchpb.RegisterBenchServiceHandlerFromEndpoint(context.Background(), mux, *upstream, options); err != nil {
		log.Fatal(err)
	}
	server := http.Server{Addr: *listen, Handler: mux}
	log.Fatal(server.ListenAndServeTLS(*edge+".pem", *edge+"-key.pem"))
}
