# Writes OUTPUT with the short commit of SOURCE_DIR; an empty one where there is no git.
execute_process(COMMAND git rev-parse --short=12 HEAD WORKING_DIRECTORY ${SOURCE_DIR}
                OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
file(WRITE ${OUTPUT} "#define AUTOMODELD_COMMIT \"${commit}\"\n")
