// Command kstatus reads a Kubernetes List as JSON on stdin, and writes for each object what kstatus computes of it:
// by that Flux, Helm 4 and others tell whether an object is ready. One JSON line per object.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

type verdict struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Status  string `json:"status"`
	Message string `json:"message"`
}

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	text, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	// encoding/json would make floats of whole numbers, and kstatus reads an int64.
	objects := &unstructured.UnstructuredList{}
	if err := objects.UnmarshalJSON(text); err != nil {
		return err
	}
	encoder := json.NewEncoder(out)
	for i := range objects.Items {
		object := &objects.Items[i]
		result, err := status.Compute(object)
		if err != nil {
			return fmt.Errorf("%s: %w", object.GetName(), err)
		}
		err = encoder.Encode(verdict{object.GetKind(), object.GetName(), string(result.Status), result.Message})
		if err != nil {
			return err
		}
	}
	return nil
}
