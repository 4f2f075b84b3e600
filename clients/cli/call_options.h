// The part of a command line that describes one call: operator, inputs, attributes, kernel.
#ifndef ATTND_CLIENTS_CLI_CALL_OPTIONS_H_
#define ATTND_CLIENTS_CLI_CALL_OPTIONS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "attnd/client.h"

namespace attnd::cli {

// An attribute's value from text, as the type that Describe names: "0.5", "true", "relu", "7,7" or
// "[7, 7]" for lists. INVALID_ARGUMENT if it does not read as that type.
absl::StatusOr<client::Attribute> ParseAttribute(const std::string& name, const std::string& type,
                                                 const std::string& text);

class CallOptions {
 public:
  // Adds the options to a subcommand.
  void AddTo(CLI::App& command);
  // Of these, those that say what runs, the operator by --op; and those that name input files.
  void AddOperatorTo(CLI::App& command);
  void AddFilesTo(CLI::App& command);

  const std::string& op() const { return op_; }
  bool random() const { return random_; }
  bool has_files() const { return !input_.empty() || !inputs_file_.empty(); }
  // With random inputs: which ones.
  absl::StatusOr<v1::RandomInputs> RandomRequest() const;

  // The call: inputs from files, or random where `random` says so (files then replace what was
  // drawn), attributes typed as the server describes them. `usual` are sizes by symbol for random
  // inputs where the operator allows them and the user did not say.
  absl::StatusOr<client::Call> Build(const client::Client& client, bool random,
                                     const std::map<std::string, int64_t>& usual) const;

  // Inputs from files.
  absl::StatusOr<std::map<std::string, client::Tensor>> ReadFiles() const;

  // The call without inputs.
  absl::StatusOr<client::Call> WithoutInputs(const client::Client& client) const;

 private:
  void AddSettingsTo(CLI::App& command);
  absl::StatusOr<std::map<std::string, int64_t>> Dims() const;

  std::string op_;
  std::vector<std::string> input_;
  std::string inputs_file_;
  std::vector<std::string> attribute_;
  std::string kernel_;
  bool random_ = false;
  std::vector<std::string> dim_;
  std::string dtype_ = "float32";
  uint64_t seed_ = 0;
  std::vector<std::string> with_;
  bool packed_ = false;
};

}  // namespace attnd::cli

#endif  // ATTND_CLIENTS_CLI_CALL_OPTIONS_H_
